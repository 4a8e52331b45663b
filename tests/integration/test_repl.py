"""Cells behave like Python. A cell that damages its own process affects only itself."""

from __future__ import annotations

import re
import textwrap

import anyio
import pytest

from rlm import CellResult, Sandbox, SandboxConfig, SandboxDied
from rlm.sandbox.base import QueryReply, SandboxProtocol, SandboxQuery

pytestmark = pytest.mark.anyio


async def echo(query: SandboxQuery) -> QueryReply:
    return QueryReply(ok=True, text=f"<{query.prompt}>")


async def last(*cells: str, sandbox: SandboxProtocol | None = None) -> CellResult:
    """The result of the last of several cells."""
    if sandbox is None:
        async with Sandbox(depth=1) as sandbox:
            return await last(*cells, sandbox=sandbox)
    for cell in cells:
        result = await sandbox.run(textwrap.dedent(cell), seconds=5, answer=echo)
    return result


async def test_functions_see_names_that_come_later() -> None:
    assert (await last("def f(): return later", "later = 1", "f()")).stdout == "1\n"


async def test_classes_are_those_of_a_real_module() -> None:
    cell = "class A: pass\nimport pickle\ntype(pickle.loads(pickle.dumps(A()))) is A, A.__module__"
    assert (await last(cell)).stdout == "(True, '__main__')\n"


async def test_private_names_and_assignments_before_an_exception_persist() -> None:
    result = await last("_hidden = 1", "x = 2\n1/0", "_hidden + x")
    assert result.stdout == "3\n"


async def test_the_last_value_is_shown_unless_it_is_none_and_kept_as_underscore() -> None:
    async with Sandbox() as sandbox:
        assert (await last("'a' * 3", sandbox=sandbox)).stdout == "'aaa'\n"
        assert (await last("_.upper()", sandbox=sandbox)).stdout == "'AAA'\n"
        assert (await last("None", "x = 1", sandbox=sandbox)).stdout == ""


async def test_a_traceback_shows_the_cells_own_lines_and_nothing_of_the_guest() -> None:
    error = (await last("def f():\n    return 1 / 0", "x = 1\nf()")).error
    assert 'File "<cell 2>", line 2, in <module>\n    f()' in error
    assert 'File "<cell 1>", line 2, in f\n    return 1 / 0' in error
    assert error.endswith("ZeroDivisionError: division by zero")
    assert "rlm" not in error


async def test_a_failed_call_shows_no_frames_of_the_guest() -> None:
    async def refuse(query: SandboxQuery) -> QueryReply:
        return QueryReply(ok=False, text="not today")

    async with Sandbox(depth=1) as sandbox:
        result = await sandbox.run("llm_query('x')", answer=refuse)
    assert result.error.endswith("LLMError: not today")
    assert "calls.py" not in result.error


async def test_a_syntax_error_is_shown_with_its_place() -> None:
    result = await last("x = 1\ny = (2")
    assert result.outcome == "error"
    assert "y = (2" in result.error
    assert "SyntaxError" in result.error


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("y = (2", "  File \"<cell 2>\", line 1\n    y = (2\n        ^\nSyntaxError: '(' was never closed"),
        ("if x:\ny = 2", None),
        ("if x:\n    y\n  z", None),
        ("return 5", None),
        ("def f():\n    x = 1\n    nonlocal x", None),
        ("await = 5", None),
        ("x = 5 +* 3", None),
        ("print('a", None),
        ("for x in range(3) print(x)", None),
        ("f'{x'", None),
    ],
)
async def test_a_syntax_error_shows_its_line_and_no_frame(cell: str, error: str | None) -> None:
    shown = (await last("x = 1", cell)).error
    assert re.fullmatch(r'  File "<cell 2>", line \d\n    .+\n +\^+\n\w+Error: .+', shown), shown
    assert error in (None, shown)


async def test_a_syntax_error_of_code_that_a_cell_parses_shows_the_cells_lines() -> None:
    error = (await last("import ast\nast.parse('x = (')")).error
    assert error.startswith('Traceback (most recent call last):\n  File "<cell 1>", line 2, in <module>\n')
    assert "ast.py" in error
    error = (await last("exec('x = (')")).error
    assert 'File "<cell 1>", line 1, in <module>' in error


async def test_a_cell_that_awaits_shows_its_own_frames_alone() -> None:
    error = (await last("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    1/0\nawait f()")).error
    assert re.findall(r'File "(.*)", line (\d+)', error) == [("<cell 1>", "5"), ("<cell 1>", "4")]
    error = (await last("import asyncio\nasyncio.run(5)")).error
    assert "asyncio/runners.py" in error
    error = (await last("import json\njson.loads('{')")).error
    assert error.startswith('Traceback (most recent call last):\n  File "<cell 1>", line 2, in <module>\n')
    assert "json/decoder.py" in error


async def test_an_event_loop_is_there_as_in_a_script_after_a_cell_that_awaited() -> None:
    first = "import asyncio\nasync def f(): return 7\nawait f()"
    assert (await last(first, "asyncio.get_event_loop().run_until_complete(f())")).stdout == "7\n"


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("contxt", "NameError: name 'contxt' is not defined. Did you mean: 'context'?"),
        ("llm_qurey('x')", "Did you mean: 'llm_query'?"),
        ("def f(total_count):\n    return total_cuont\nf(1)", "Did you mean: 'total_count'?"),
        ("pritn(1)", "Did you mean: 'print'?"),
        ("re.findall('a', 'b')", "NameError: name 're' is not defined. Did you forget to import 're'?"),
        ("def f():\n    return json.dumps({})\nf()", "Did you forget to import 'json'?"),
        ("collections.Counter()", "Did you forget to import 'collections'?"),
        ("class A:\n    length = 1\nA().lenght", "Did you mean: 'length'?"),
        ("qqqqq", "NameError: name 'qqqqq' is not defined"),
        ("context.zzz", "AttributeError: 'NoneType' object has no attribute 'zzz'"),
        ("def f():\n    x += 1\nf()", "cannot access local variable 'x' where it is not associated with a value"),
        ("class A:\n    def __dir__(self): raise ValueError\nA().x", "'A' object has no attribute 'x'"),
    ],
)
async def test_an_unknown_name_gets_the_suggestion_of_python(cell: str, hint: str) -> None:
    error = (await last(cell)).error
    assert hint in error
    assert ("Did you" in error) == ("Did you" in hint)
    assert error.count("Did you") <= 1


@pytest.mark.parametrize("limit", [1000, 100_000])
async def test_a_deep_recursion_is_a_short_error_soon(limit: int) -> None:
    recurse = f"import sys\nsys.setrecursionlimit({limit})\ndef f(n): return f(n + 1) + 1\n"
    recurse += "import time\nbegan = time.monotonic()\ntry: f(0)\nfinally: took = time.monotonic() - began"
    async with Sandbox() as sandbox:
        result = await sandbox.run(recurse, seconds=30)
        own = float((await sandbox.run("print(took)")).stdout)
    assert result.error.endswith("RecursionError: maximum recursion depth exceeded")
    assert len(result.error) < 2000
    assert result.error.count("more times]") == 1
    assert ("frames left out" in result.error) == (limit > 1000)
    assert result.seconds < 3 * own + 2


async def test_the_source_of_what_cells_define_can_be_read() -> None:
    first = "class K:\n    z = 1\n\nclass Outer:\n    class K2:\n        y = 2\n"
    second = "import inspect\ndef f(x):\n    return x + 1\nclass K:\n    z = 3\n"
    show = (
        "print(inspect.getsource(f), inspect.getsource(K), inspect.getsource(Outer.K2), inspect.getsourcefile(Outer))"
    )
    shown = (await last(first, second, show)).stdout
    assert shown == "def f(x):\n    return x + 1\n class K:\n    z = 3\n     class K2:\n        y = 2\n <cell 1>\n"
    assert (
        "import sys" in (await last("import inspect, json\ninspect.getsource(inspect.Signature), 'import sys'")).stdout
    )
    assert "source code not available" in (await last("import inspect\ninspect.getsource(type('X', (), {}))")).error


async def test_the_locale_that_lang_names_exists(config: SandboxConfig) -> None:
    cell = """
    import locale, time
    print(locale.setlocale(locale.LC_ALL, ""), locale.getpreferredencoding(), locale.getlocale(), time.strftime("%A %x"))
    print(f"{1234567:n} {1.5:n}", locale.strxfrm("ä") != "", "ä".encode().decode(), sorted("bäa", key=locale.strxfrm))
    print(locale.setlocale(locale.LC_ALL, "C.UTF-8"), open("/tmp/x", "w").encoding, locale.nl_langinfo(locale.CODESET))
    """
    async with Sandbox(config) as sandbox:
        done = await last(cell, sandbox=sandbox)
        day = (await last("time.strftime('%A %x')", sandbox=sandbox)).stdout.strip("'\n")
    assert done.error == ""
    first, second, third = done.stdout.splitlines()
    assert first == f"C.UTF-8 UTF-8 ('en_US', 'UTF-8') {day}"
    assert second == "1234567 1.5 True ä ['a', 'b', 'ä']"
    assert third == "C.UTF-8 UTF-8 UTF-8"


PROCESSES = "import multiprocessing as mp\nfrom multiprocessing import *\ndef sq(x): return x * x\n"


@pytest.mark.parametrize(
    ("use", "advice"),
    [
        ("with Pool(2) as p:\n    print(p.map(sq, range(5)))", "no semaphores"),
        ("mp.get_context('spawn').Pool(2)", "no semaphores"),
        ("from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor(2)", "no semaphores"),
        ("Queue()", "no semaphores"),
        ("SimpleQueue()", "no semaphores"),
        ("JoinableQueue()", "no semaphores"),
        ("Lock()", "no semaphores"),
        ("RLock()", "no semaphores"),
        ("Semaphore(2)", "no semaphores"),
        ("BoundedSemaphore(2)", "no semaphores"),
        ("Event()", "no semaphores"),
        ("Condition()", "no semaphores"),
        ("Barrier(2)", "no semaphores"),
        ("Value('i', 1)", "no semaphores"),
        ("Array('i', 3)", "no semaphores"),
        ("Manager().dict()", "managers do not work"),
        ("mp.get_context('spawn').Manager()", "managers do not work"),
        (
            "from multiprocessing.shared_memory import SharedMemory\nSharedMemory(create=True, size=9)",
            "no shared memory",
        ),
        ("from multiprocessing.shared_memory import ShareableList\nShareableList([1])", "no shared memory"),
        ("mp.get_context('spawn').Process(target=sq, args=(1,)).start()", "the start method 'spawn'"),
        ("class P(mp.get_context('spawn').Process): pass\nP().start()", "the start method 'spawn'"),
        ("mp.set_start_method('forkserver'); Process(target=sq, args=(1,)).start()", "the start method 'forkserver'"),
    ],
)
async def test_what_processes_cannot_share_is_an_error_at_once_that_says_what_to_use(use: str, advice: str) -> None:
    async with Sandbox() as sandbox:
        result = await sandbox.run(PROCESSES + use, seconds=10)
        assert (result.outcome, result.stderr) == ("error", "")
        message = result.error.splitlines()[-1]
        assert message.startswith("OSError: ")
        assert advice in message
        assert "use threads" in message
        assert result.seconds < 5
        assert (await sandbox.run("print('on')")).stdout == "on\n"


async def test_what_processes_need_no_semaphore_for_works() -> None:
    cells = """
    import multiprocessing as mp, os, sys
    from multiprocessing.dummy import Pool
    from multiprocessing.pool import ThreadPool
    def child(end): end.send(os.getpid()); print("child", flush=True)
    here, there = mp.Pipe()
    process = mp.Process(target=child, args=[there]); process.start(); process.join()
    print(here.recv() == process.pid, process.exitcode, mp.Value("i", 3, lock=False).value, mp.cpu_count() > 0)
    with ThreadPool(4) as pool: print(pool.map(llm_query, "ab"), pool.apply_async(len, ["abc"]).get())
    with Pool(4) as pool: print(list(pool.imap_unordered(abs, [-1])), pool.starmap(max, [(1, 2)]))
    pool = ThreadPool(2, initializer=print, initargs=["begin"]); pool.close(); pool.join()
    """
    result = await last(cells)
    assert result.error == ""
    assert result.stdout.splitlines()[:4] == ["child", "True 0 3 True", "['<a>', '<b>'] 3", "[1] [2]"]
    module = "open('mine.py', 'w').write('def f(): print(6 * 7, flush=True)')\nimport sys; sys.path.insert(0, '')\n"
    module += (
        "import mine, multiprocessing as mp\np = mp.get_context('spawn').Process(target=mine.f); p.start(); p.join()"
    )
    assert (await last(module)).stdout == "42\n"


async def test_a_call_from_a_process_that_a_cell_started_is_refused_with_a_reason() -> None:
    cell = """
    import os
    if os.fork() == 0:
        try: llm_query("from the child")
        except RuntimeError as error: print(error, flush=True)
        os._exit(0)
    os.wait()
    print(llm_query("from the cell"))
    """
    shown = (await last(cell)).stdout
    assert "this call works only in the process of the cell" in shown
    assert shown.endswith("<from the cell>\n")


async def test_sys_exit_ends_the_cell_and_not_the_repl() -> None:
    async with Sandbox() as sandbox:
        assert (await last("x = 1\nimport sys\nsys.exit()", sandbox=sandbox)).outcome == "ok"
        failed = await last("sys.exit('gone')", sandbox=sandbox)
        assert (failed.outcome, failed.error) == ("error", "SystemExit: gone")
        assert (await last("x", sandbox=sandbox)).stdout == "1\n"


async def test_a_cell_may_await_at_its_top_level() -> None:
    assert (await last("import asyncio\nx = await asyncio.sleep(0, 5)\nx")).stdout == "5\n"


async def test_there_is_no_input_to_wait_for() -> None:
    assert "EOFError" in (await last("input()")).error


@pytest.mark.parametrize(
    "evil",
    [
        "class E:\n    def __repr__(self): raise RuntimeError('no')\nE()",
        "class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E()",
        "class M(type):\n    def __getattribute__(s, n): raise RuntimeError('no')\n"
        "class E(Exception, metaclass=M): pass\nraise E()",
        "raise BaseException('x' * 10_000_000)",
        "import sys\nsys.excepthook = sys.displayhook = None\n1/0",
        "import builtins\nbuiltins.repr = None\n1/0",
        "import sys\nsys.stdout = sys.stderr = None\n5",
        "import os\nos.close(1)\nos.close(2)\nprint('x')",
        "import sys\nsys.stdout.close()",
        "del __builtins__",
        "import sys\nsys.modules.clear()",
        "class D(dict):\n    def get(self, *a): 1 / 0\nanswer = D()",
    ],
)
async def test_an_evil_cell_is_an_error_at_most_and_the_next_one_works(evil: str) -> None:
    async with Sandbox() as sandbox:
        await last("kept = 41", sandbox=sandbox)
        bad = await last(evil, sandbox=sandbox)
        assert len(bad.error) < 100_000
        assert (await last("print(kept + 1)", sandbox=sandbox)).stdout == "42\n"


async def test_lone_surrogates_are_printed_escaped() -> None:
    assert (await last("print('a\\ud800b')")).stdout == "a\\ud800b\n"


async def test_names_for_calling_are_there_again_after_they_were_overwritten() -> None:
    assert (await last("llm_query = llm_batch = FINAL = None", "llm_query('x')")).stdout == "'<x>'\n"
    assert (await last("[f('x') for f in (llm_query, rlm_query)]")).stdout == "['<x>', '<x>']\n"
    batches = "[f(['x']) for f in (llm_batch, llm_query_batched, rlm_query_batched)]"
    assert (await last(batches)).stdout == "[['<x>'], ['<x>'], ['<x>']]\n"


async def test_threads_call_at_once_each_getting_its_own_answer() -> None:
    cell = """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(llm_query, [str(i) for i in range(200)]))
    answers == [f"<{i}>" for i in range(200)]
    """
    assert (await last(cell)).stdout == "True\n"


async def test_a_batch_longer_than_the_limit_on_open_calls_continues_as_answers_arrive() -> None:
    most = open_now = 0

    async def count(query: SandboxQuery) -> QueryReply:
        nonlocal most, open_now
        open_now += 1
        most = max(most, open_now)
        await anyio.sleep(0.01)
        open_now -= 1
        return QueryReply(ok=True, text=query.prompt)

    async with Sandbox(depth=1) as sandbox:
        cell = "llm_batch([str(i) for i in range(100)], max_concurrent=7) == [str(i) for i in range(100)]"
        assert (await sandbox.run(cell, answer=count)).stdout == "True\n"
        assert most == 7
        cell = "llm_batch([str(i) for i in range(2000)]) == [str(i) for i in range(2000)]"
        assert (await sandbox.run(cell, answer=count)).stdout == "True\n"
    assert most <= 512


async def test_large_calls_wait_for_memory_and_one_too_large_is_refused_with_a_reason() -> None:
    async def slow(query: SandboxQuery) -> QueryReply:
        await anyio.sleep(0.05)
        return QueryReply(ok=True, text=query.prompt[:1])

    config = SandboxConfig(max_value_bytes=1_000_000)
    calls = [
        "llm_batch(['x' * 300_000] * 20) == ['x'] * 20",
        "llm_query('x' * 1_000_000)",
        "llm_query('x' * 1_000_001)",
        "llm_query('x', context=b'y' * 1_000_000)",
        "FINAL('x' * 1_000_001)",
    ]
    async with Sandbox(config, depth=2) as sandbox:
        results = [await sandbox.run(cell, seconds=5, answer=slow) for cell in calls]
        assert (await sandbox.run("FINAL('x' * 1_000_000)")).answer == "x" * 1_000_000
    assert [result.stdout for result in results[:2]] == ["True\n", "'x'\n"]
    for result in results[2:]:
        assert result.outcome == "error"
        assert (
            "ValueError: 1,000,001 bytes are too many: at most 1,000,000 can leave the sandbox at once" in result.error
        )


async def test_calls_that_could_not_be_sent_release_their_budget() -> None:
    async def echo(query: SandboxQuery) -> QueryReply:
        return QueryReply(ok=True, text=query.prompt)

    cell = """
    import errno
    held, failed = [], 0
    try:
        while True: held.append(open('/dev/null'))
    except OSError as full: assert full.errno == errno.EMFILE
    for _ in range(5):
        try: llm_query('x' * 40_000)
        except OSError: failed += 1
    for file in held: file.close()
    print(failed)
    """
    async with Sandbox(SandboxConfig(max_calls_in_flight=3), depth=1) as sandbox:
        assert (await sandbox.run(textwrap.dedent(cell), seconds=20, answer=echo)).stdout == "5\n"
        assert (await sandbox.run("llm_batch(['a'] * 9) == ['a'] * 9", seconds=5, answer=echo)).stdout == "True\n"


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("llm_query(5)", "a prompt has to be a str, not int"),
        ("llm_batch('one')", "llm_batch takes a list of prompts"),
        ("llm_batch(['a'], contexts=[])", "1 prompts and 0 contexts"),
        ("llm_query('a', model=5)", "model= takes a name"),
        ("llm_batch(5)", "prompts has to be a list, not int"),
        ("llm_batch(['a', 5])", "a prompt has to be a str, not int"),
        ("llm_batch(['a'], max_concurrent='2')", "max_concurrent has to be an int, not str"),
        ("FINAL()", "TypeError: FINAL() missing 1 required positional argument: 'value'. Call it as FINAL(value)"),
        ("FINAL(1, 2)", "TypeError: FINAL() got too many arguments. Call it as FINAL(value)"),
        ("FINAL(answer=1)", "TypeError: FINAL() got an unexpected keyword argument 'answer'. Call it as FINAL(value)"),
        ("FINAL_VAR()", "FINAL_VAR() missing 1 required positional argument: 'name'. Call it as FINAL_VAR('name')"),
        ("SHOW_VARS('x')", "SHOW_VARS() got too many arguments. Call it as SHOW_VARS()"),
        ("llm_query()", "llm_query() missing 1 required positional argument: 'prompt'. Call it as llm_query(prompt, "),
        (
            "rlm_query('a', temperature=0)",
            "rlm_query() got an unexpected keyword argument 'temperature'. Call it as rlm_",
        ),
        (
            "llm_query_batched()",
            "llm_query_batched() missing 1 required positional argument: 'prompts'. Call it as llm_q",
        ),
        (
            "rlm_query_batched(['a'], 1, 2)",
            "rlm_query_batched() got too many arguments. Call it as rlm_query_batched(p",
        ),
        (
            "FINAL_VAR('resul')",
            "there is no variable 'resul'; did you mean result? The variables are: context, result.",
        ),
        ("FINAL_VAR('the result')", "To give this text itself: FINAL('the result')"),
        (
            "FINAL_VAR('It is 42.')",
            "there is no variable 'It is 42.'. The variables are: context, result. To give this t",
        ),
        ("other = 'It is' + ' 42.'; FINAL_VAR(other)", "It is the value of other: use FINAL_VAR('other')"),
        ("FINAL_VAR('x ' * 10_000)", "x ...')"),
    ],
)
async def test_a_call_with_invalid_arguments_is_explained_to_the_cell(cell: str, sentence: str) -> None:
    assert sentence in (await last("result = 1", cell)).error


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        ("FINAL(42)", "42"),
        ("FINAL('a'); FINAL('b')", "b"),
        ("x = [1]; FINAL_VAR('x')", "[1]"),
        ("x = 'text'; FINAL_VAR(x) if False else FINAL_VAR('x')", "text"),
        ("answer['content'] = 'c'; answer['ready'] = True", "c"),
        ("FINAL('early'); 1/0", None),
        ("answer['content'] = 'not ready'", None),
        ("def FINAL(x): pass\nFINAL(1)", None),
        ("FINAL(None)", "None"),
        ("FINAL('')", ""),
        ("FINAL(0.5)", "0.5"),
        ("FINAL(b'x')", "b'x'"),
        ("FINAL(['a', None])", "['a', None]"),
        ("FINAL(value='named')", "named"),
        ("FINAL('a\\ud800b')", "a\ud800b"),
        ("FINAL(ValueError('text'))", "text"),
        ("class E:\n    def __str__(self): raise ValueError('mine')\nFINAL(E())", None),
        ("class E:\n    def __str__(self): return 5\nFINAL(E())", None),
        ("FINAL(10 ** 5000)", None),
        ("x = None; FINAL_VAR('x')", "None"),
        ("x = ''; FINAL_VAR('x')", ""),
    ],
)
async def test_a_final_answer_counts_only_if_its_cell_succeeds(cell: str, answer: str | None) -> None:
    result = await last(cell)
    assert result.answer == answer
    assert "rlm" not in result.error


async def test_show_vars_lists_what_the_cells_have_made() -> None:
    shown = (await last("text = 'abc' * 100\nnumber = 5", "SHOW_VARS()")).stdout
    assert "text: str (300) = 'abcabc" in shown
    assert "number: int = 5" in shown
    assert "llm_query" not in shown


async def test_processes_that_a_cell_leaves_running_end_with_it() -> None:
    leave = """
    import os, sys, subprocess
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        while True: pass
    print("left")
    """
    look = """
    import os, time

    def runs(pid):
        try:
            return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    for _ in range(100):  # the last snapshot may still exist for a moment
        running = [p for p in os.listdir("/proc") if p.isdigit() and runs(p)]
        if len(running) == 3:
            break
        time.sleep(0.01)
    len(running)
    """
    async with Sandbox() as sandbox:
        assert (await last(leave, sandbox=sandbox)).stdout == "left\n"
        assert (await last(look, sandbox=sandbox)).stdout == "3\n"  # the supervisor, the worker and its snapshot


async def test_a_forked_child_that_returns_from_the_cell_reports_nothing() -> None:
    async with Sandbox() as sandbox:
        result = await last("import os\nx = os.fork()\nFINAL('child' if x == 0 else 'parent')", sandbox=sandbox)
        assert result.answer in ("child", "parent")
        assert (await last("print('next')", sandbox=sandbox)).stdout == "next\n"


FORGE = """
import gc, os, socket
from rlm.protocol.messages import Result, Ready, pack
forged = {forged}
for number in range(3, 64):
    try:
        socket.socket(fileno=os.dup(number)).send(forged)
    except OSError:
        continue
import time; time.sleep(60)  # the supervisor ends the cell as soon as it reads this
"""


@pytest.mark.parametrize(
    "forged",
    [
        "b'garbage'",
        "b''.join([bytes([0xc1]), b'snapshot', (1).to_bytes(4, 'big')])",
        "pack(Ready(version=1, digest='x', python='3'))",
        "pack(Result(cell=9, outcome='timeout', error='', answer=None, stdout_bytes=0, stderr_bytes=0, snapshot=True,"
        " seconds=0.0))",
    ],
)
async def test_invalid_data_sent_to_the_supervisor_costs_only_the_cell(forged: str) -> None:
    async with Sandbox() as sandbox:
        await last("kept = 1", sandbox=sandbox)
        bad = await last(FORGE.format(forged=forged), sandbox=sandbox)
        assert bad.outcome == "died"
        assert "its link to the supervisor" in bad.error
        assert (await last("kept", sandbox=sandbox)).stdout == "1\n"


FORGE_RESULT = """
import time
from rlm.protocol.messages import Result
forged = dict(outcome="ok", error="", answer=b"forged", stdout_bytes=9, stderr_bytes=0, snapshot=True, seconds=0)
llm_query.__self__._link.send(Result(cell={cell}, **forged))
time.sleep(0.2)
FINAL("answer of cell 2")
"""


async def right_or_lost(sandbox: Sandbox, number: int) -> bool:
    """A cell that prints its number: its result is true, or the sandbox is lost."""
    try:
        result = await last(f"print({number})", sandbox=sandbox)
    except SandboxDied:
        return False
    assert (result.outcome, result.stdout, result.answer) == ("ok", f"{number}\n", None)
    return True


async def test_a_result_forged_by_a_cell_replaces_at_most_that_cells_result() -> None:
    async with Sandbox() as sandbox:
        await last("1", sandbox=sandbox)
        second = await last(FORGE_RESULT.format(cell=2), sandbox=sandbox)
        assert (second.outcome, second.answer, second.stdout) == ("ok", "forged", "")
        _ = await right_or_lost(sandbox, 3) and await right_or_lost(sandbox, 4)


@pytest.mark.parametrize("cell", [0, 1, 3])
async def test_a_result_forged_for_another_cell_has_no_effect(cell: int) -> None:
    async with Sandbox() as sandbox:
        await last("kept = 1", sandbox=sandbox)
        second = await last(FORGE_RESULT.format(cell=cell), sandbox=sandbox)
        assert (second.outcome, second.answer) == ("died", None)
        assert (await last("print(kept)", sandbox=sandbox)).stdout == "1\n"
        assert await right_or_lost(sandbox, 4)


async def test_an_answer_forged_for_a_cell_that_failed_does_not_count() -> None:
    async with Sandbox() as sandbox:
        failed = await last(
            FORGE_RESULT.format(cell=1).replace('"ok", error=""', '"error", error="E"'), sandbox=sandbox
        )
        assert (failed.outcome, failed.error, failed.answer) == ("error", "E", None)


async def test_a_cell_that_kills_its_own_snapshot_and_hangs_loses_only_its_sandbox() -> None:
    cell = """
    import os, signal
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            os.kill(int(name), signal.SIGKILL)
    while True: pass
    """
    async with Sandbox() as sandbox:
        with pytest.raises(SandboxDied, match=r"longer than 0\.5 seconds and was stopped\. Its snapshot is gone"):
            await sandbox.run(textwrap.dedent(cell), seconds=0.5)


async def test_cells_with_a_large_state_run_without_a_snapshot_and_say_so() -> None:
    async with Sandbox() as sandbox:
        result = await last("big = bytearray(300 << 20)", "len(big)", sandbox=sandbox)
        assert (result.stdout, result.snapshot) == ("314572800\n", False)
        result = await last("del big", "1", sandbox=sandbox)
        assert result.snapshot


async def test_random_numbers_are_the_same_in_every_sandbox() -> None:
    cell = "import random\n[random.random() for _ in range(2)], hash('a'), random.Random().random() < 1"
    first, second = (await last(cell)).stdout, (await last("x = 1", cell)).stdout
    assert first == second
    assert first.startswith("([0.8444218515250481, 0.7579544029403025], ")
