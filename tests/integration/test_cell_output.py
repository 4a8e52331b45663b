"""What a cell writes is in that cell's output: complete, in order, and nowhere else."""

from __future__ import annotations

import textwrap

import pytest

from helpers.containers import offered, ways
from rlm import CellResult, Sandbox, SandboxConfig

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


async def outputs(*cells: str, config: SandboxConfig | None = None, seconds: float = 5) -> list[CellResult]:
    async with Sandbox(config) as sandbox:
        return [await sandbox.run(textwrap.dedent(cell), seconds=seconds) for cell in cells]


async def text_of(*cells: str) -> list[str]:
    """The output of each cell, all of which must succeed."""
    results = await outputs(*cells)
    assert [result.error for result in results] == [""] * len(cells)
    return [result.stdout for result in results]


KEPT = """
import contextlib, functools, io, logging, sys
out, err, raw, write = sys.stdout, sys.stderr, sys.stdout.buffer, sys.stdout.write
say = functools.partial(print, end="", file=sys.stdout)
logger = logging.getLogger("kept")
logger.addHandler(logging.StreamHandler(sys.stdout))
logging.basicConfig(level=logging.INFO, format="%(message)s")
class Tee(io.TextIOBase):
    def __init__(self, inner): self.inner = inner
    def write(self, text): return self.inner.write(text)
tee = sys.stdout = Tee(sys.stdout)
"""
USES = [
    ("out.write('kept'); None", "kept"),
    ("write('kept'); None", "kept"),
    ("print('a', end=''); raw.write(b'b'); out.write('c'); say('d'); tee.write('e'); print('f', end='')", "abcdef"),
    ("say(1); logger.warning('two'); print('three', end='')", "1two\nthree"),
    ("with contextlib.redirect_stdout(tee): print('via tee', end='')", "via tee"),
    (
        "with contextlib.redirect_stdout(io.StringIO()): print('x')\nwith contextlib.redirect_stdout(out): print(1)",
        "1\n",
    ),
    ("sys.stdout = io.StringIO(); print('hidden'); sys.stdout = sys.__stdout__; print('back', end='')", "back"),
    ("sys.stdout = io.StringIO(); print('hidden'); sys.stdout = out; print('back', end='')", "back"),
    ("out.writelines(['a', 'b']); raw.write(memoryview(b'c')); raw.write(bytearray(b'd'))\nout.flush()", "abcd"),
    ("wrapped = io.TextIOWrapper(raw, 'utf-8'); wrapped.write('w'); del wrapped; say('on')", "won"),
    ("with out: out.write('in')\nsay('after')", "inafter"),
    ("raw.write(b'\\xff\\xfe'); None", "\\xff\\xfe"),
    (
        "import subprocess; say('a'); out.flush(); subprocess.run([sys.executable, '-c', 'print(1)'], stdout=out); None",
        "a1\n",
    ),
]


@pytest.mark.parametrize(("use", "shown"), USES)
async def test_a_stream_kept_from_an_earlier_cell_writes_into_the_cell_that_runs_now(use: str, shown: str) -> None:
    _, first, second, third = await text_of(KEPT, use + ";None" if "\n" not in use else use, "print('next')", use)
    assert (first, second, third) == (shown, "next\n", shown)


async def test_kept_error_streams_and_handlers_write_into_the_cell_that_runs_now() -> None:
    use = "logging.info('%s', 'info'); err.write('kept'); err.buffer.write(b'!'); print('?', end='', file=sys.stderr)"
    _, first, second = await outputs(KEPT, use, "import warnings; warnings.warn('last', stacklevel=1)")
    assert (first.stderr, first.error) == ("info\nkept!?", "")
    assert second.stderr.count("UserWarning: last\n") == 1


async def test_a_kept_stream_works_after_a_rollback() -> None:
    _, undone, after, again = await outputs(
        KEPT,
        "say('undone'); import os; os._exit(1)",
        "say('woken'); raw.write(b'.');None",
        "out is sys.stdout",
        seconds=5,
    )
    assert (undone.outcome, after.stdout, again.stdout) == ("died", "woken.", "True\n")


@pytest.mark.parametrize(
    "damage",
    [
        "sys.stdout.close(); sys.stdout.buffer.close()",
        "sys.stdout.detach()",
        "import io; sys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'latin-1')",
        "sys.stdout.write = sys.stdout.buffer.write = None",
        "sys.stdout.reconfigure(encoding='ascii', errors='strict', newline='\\r\\n')",
        "sys.stdout = sys.__stdout__ = None",
        "del sys.stdout, sys.__stdout__",
        "import os; os.close(1)\nsys.stdout.write('lost')",
        "import os; os.set_blocking(1, False); print('x' * 3_000_000)",
        "import builtins; builtins.len = builtins.memoryview = builtins.zip = None",
    ],
)
async def test_streams_that_a_cell_damaged_are_whole_for_the_next(damage: str) -> None:
    _, _, after = await outputs("import sys", damage, "print('größe')")
    assert after.stdout == "größe\n"


GHOSTS = """
import asyncio, logging, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
go = threading.Event()
written = []
def ghost():
    go.wait()
    print("ghost", flush=True)
    print("half", end="")
    sys.stdout.buffer.write(b"ghost bytes")
    sys.stdout.flush()
    logging.info("ghost log")
    print("ghost error", file=sys.stderr)
    inner = threading.Thread(target=lambda: (print("ghost of a ghost"), written.append(2)))
    inner.start()
    inner.join()
    written.append(1)
    raise ValueError("ghost traceback")
async def task():
    while not go.is_set():
        await asyncio.sleep(0.01)
    print("ghost task")
    await asyncio.to_thread(print, "ghost of a task")
    written.append(3)
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
asyncio.run_coroutine_threadsafe(task(), loop)
pool = ThreadPoolExecutor(2)
pool.submit(ghost)
threads = [threading.Thread(target=ghost, daemon=True) for _ in range(3)]
for thread in threads: thread.start()
import _thread
_thread.start_new_thread(ghost, ())
print("started")
"""
LOOK = """
go.set()
deadline = time.monotonic() + 4
while sorted(written) != [1] * 5 + [2] * 5 + [3] and time.monotonic() < deadline:
    time.sleep(0.01)
print(sorted(written))
"""


@pytest.mark.parametrize("config", ways(daily=1))
async def test_a_thread_that_outlives_its_cell_prints_nothing_into_later_cells(config: SandboxConfig) -> None:
    first, second, third = await outputs(GHOSTS, LOOK, "print('next', end='')", config=offered(config), seconds=20)
    assert (first.stdout, first.error) == ("started\n", "")
    assert (second.stdout, second.stderr, second.error) == ("[1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]\n", "", "")
    assert (third.stdout, third.stderr) == ("next", "")


async def test_work_that_a_cell_gives_to_an_older_pool_or_loop_prints_into_that_cell() -> None:
    pools = """
    import asyncio, threading
    from concurrent.futures import ThreadPoolExecutor
    from multiprocessing.pool import ThreadPool
    async def hello(text): print(text)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(hello("coroutine"), loop).result()
    executor, pool = ThreadPoolExecutor(1), ThreadPool(1)
    executor.submit(print, "executor").result()
    pool.map(print, ["pool"])
    pending = asyncio.new_event_loop()
    task = pending.create_task(hello("own loop"))
    """
    use = """
    executor.submit(print, "submit").result()
    list(executor.map(print, "m"))
    pool.map(print, ["map"]); pool.apply(print, ["apply"]); list(pool.imap(print, ["imap"]))
    pool.starmap(print, [["starmap"]]); pool.apply_async(print, ["async"]).get()
    asyncio.run_coroutine_threadsafe(hello("coroutine"), loop).result()
    pending.run_until_complete(task)
    """
    first, second = await text_of(pools, use)
    assert first.split() == ["coroutine", "executor", "pool"]
    assert second.split() == ["submit", "m", "map", "apply", "imap", "starmap", "async", "coroutine", "own", "loop"]


async def test_many_printing_threads_harm_neither_output_nor_rollback() -> None:
    flood = """
    import threading
    def flood(name):
        while True: print(name * 30)
    for name in "abcdefgh": threading.Thread(target=flood, args=[name], daemon=True).start()
    """
    lines = """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: print(f"<{number}>\\n", end=""), range(2000)))
    """
    cells = [flood, lines, "print('kept', end='')", "while True: pass", lines, "print('last')"]
    async with Sandbox() as sandbox:
        results = [await sandbox.run(textwrap.dedent(cell), seconds=10 if cell == lines else 3) for cell in cells]
    _, second, third, stopped, fifth, last = results
    for result in (second, fifth):
        assert sorted(result.stdout.split(), key=lambda line: int(line[1:-1])) == [f"<{n}>" for n in range(2000)]
    assert (third.stdout, stopped.outcome, stopped.stdout, last.stdout) == ("kept", "timeout", "", "last\n")


async def test_a_signal_handler_may_print_while_its_thread_prints() -> None:
    cell = """
    import signal
    signal.signal(signal.SIGALRM, lambda *_: print("tick"))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    for _ in range(20_000): print("line")
    signal.setitimer(signal.ITIMER_REAL, 0); None
    """
    (shown,) = await text_of(cell)
    assert shown.count("line") == 20_000
    assert shown.replace("line", "").replace("tick", "").strip() == ""
