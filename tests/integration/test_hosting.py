"""A standalone sandbox: files in and out, host functions, and resets."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm import (
    ConfigError,
    Message,
    Orchestrator,
    Sandbox,
    SandboxConfig,
    ScriptedModel,
    SyncSandbox,
    ToolError,
)
from rlm.events import Event, ToolUsed
from rlm.sandbox.docker.runtimes import is_gvisor

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

MIB = 1 << 20


async def printed(sandbox: Sandbox, code: str, **options: Any) -> str:
    done = await sandbox.run(textwrap.dedent(code), **options)
    assert (done.outcome, done.error) == ("ok", "")
    return done.stdout.strip()


# Files


async def test_files_go_in_by_value_and_come_out_by_name(config: SandboxConfig, tmp_path: Path) -> None:
    big = os.urandom(3 * MIB)
    host = tmp_path / "host.txt"
    host.write_text("from the host")
    async with Sandbox(config) as sandbox:
        await sandbox.put("data/in put.csv", "a,b\n1,ü\n")
        await sandbox.put("host.txt", host)
        await sandbox.put("big", big)
        await sandbox.put("empty", b"")
        assert await printed(sandbox, "print(open('data/in put.csv').read(), open('host.txt').read())") == (
            "a,b\n1,ü\n from the host"
        )
        await sandbox.run("import os\nos.makedirs('out/deep')\nopen('out/deep/r.json', 'w').write('{}')")
        changed = await sandbox.run("os.remove('host.txt')\nopen('host.txt', 'w').write('changed')")
        # Under gVisor another user than the code's owns it; elsewhere the code may change its own copy.
        assert (changed.outcome == "ok") is not is_gvisor(config.runtime)
        assert await sandbox.files() == {
            "big": 3 * MIB,
            "data/in put.csv": 9,
            "empty": 0,
            "host.txt": 13 if is_gvisor(config.runtime) else 7,
            "out/deep/r.json": 2,
        }
        assert await sandbox.get("big") == big
        assert await sandbox.get("empty") == b""
        assert await sandbox.get("out/deep/r.json") == b"{}"
        await sandbox.put("big", b"replaced")
        assert await sandbox.get("big") == b"replaced"
    assert host.read_text() == "from the host"


HOSTILE_FILES = """
import os
os.makedirs('inside')
open('secret', 'w').write('mine')
os.symlink('/etc/passwd', 'link')
os.symlink('/etc', 'folder')
os.symlink('secret', 'inside/link')
os.symlink('/proc/1/root', 'root')
os.symlink('loop', 'loop')
open('large', 'wb').write(bytes(100_000))
open('line\\nbreak', 'w').close()
open('\\udcff', 'w').close()
os.chmod('secret', 0)
deep = '.'
for n in range(40):
    deep += '/d'
    os.mkdir(deep)
"""


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("link", "symbolic links"),
        ("folder/passwd", "Not a directory|symbolic links"),
        ("root/etc/passwd", "Not a directory|symbolic links"),
        ("inside/link", "symbolic links"),
        ("loop", "symbolic links"),
        ("inside", "not a regular file|directory"),
        ("missing", "No such file"),
        ("large", "more than 50,000 bytes"),
        ("../etc/passwd", "not a plain relative path"),
        ("/etc/passwd", "not a plain relative path"),
        ("a//b", "not a plain relative path"),
        ("", "1 to 1024 characters"),
        ("line\nbreak", "not printable"),
        ("x" * 300, "too long"),
    ],
)
async def test_only_regular_files_are_fetched(path: str, why: str) -> None:
    async with Sandbox() as sandbox:
        assert (await sandbox.run(HOSTILE_FILES)).outcome == "ok"
        with pytest.raises(ConfigError, match=why):
            await sandbox.get(path, max_bytes=50_000)
        assert await printed(sandbox, "print('on')") == "on"


async def test_a_list_of_files_names_no_links_and_nothing_unprintable(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        assert (await sandbox.run(HOSTILE_FILES)).outcome == "ok"
        assert await sandbox.files() == {"large": 100_000, "secret": 4}


async def test_a_list_of_files_is_bounded_however_many_there_are_and_however_long_their_names() -> None:
    async with Sandbox() as sandbox:
        await sandbox.run("for n in range(6000): open(f'{n:04}' + 'x' * 251, 'w').close()")
        found = await sandbox.files()
        assert 1000 < len(found) < 6000
        assert await printed(sandbox, "print('on')") == "on"


async def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(config: SandboxConfig) -> None:
    async with Sandbox(replace(config, tmp_bytes=4 * MIB)) as sandbox:
        with pytest.raises(ConfigError, match="No space left"):
            await sandbox.put("big", bytes(8 * MIB))
        await sandbox.put("small", bytes(MIB))
        assert await sandbox.files() == {"small": MIB}


async def test_links_in_the_way_of_a_file_are_not_followed(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        await sandbox.run("import os\nos.symlink('/tmp', 'there')\nos.symlink('/tmp/target', 'name')")
        with pytest.raises(ConfigError, match=r"Not a directory|symbolic links"):
            await sandbox.put("there/file", b"x")
        await sandbox.put("name", b"x")
        assert await printed(sandbox, "print(os.listdir('/tmp'), os.path.islink('name'))") == "[] False"


async def test_a_file_that_grows_while_it_is_read_is_bounded(config: SandboxConfig) -> None:
    code = """
        import threading, time
        def grow():
            with open('growing', 'ab', buffering=0) as file:
                while True:
                    file.write(bytes(10_000)) if file.tell() < 40_000_000 else file.truncate(0)
        threading.Thread(target=grow, daemon=True).start()
        time.sleep(0.1)
    """
    async with Sandbox(config) as sandbox:
        await sandbox.run(textwrap.dedent(code))
        for _ in range(20):
            with suppress(ConfigError):  # it exceeds a MiB
                assert len(await sandbox.get("growing", max_bytes=MIB)) <= MIB
        assert (await sandbox.run("print('on')")).stdout == "on\n"


# Resets

MESS = """
import ctypes, os, sys, threading, time, builtins, json
secret = 'a secret of the first script'
builtins.print = None
json.dumps = None
sys.path.insert(0, '/tmp')
open('/tmp/json.py', 'w').write('evil = 1')
deep = '/workspace'
for n in range(300):
    deep += '/d'
    os.mkdir(deep)
os.makedirs('/tmp/locked/inner')
os.chmod('/tmp/locked/inner', 0)
os.chmod('/tmp/locked', 0)
for n in range(500): open(f'/tmp/{n}', 'w').close()
os.symlink('/etc', '/tmp/link')
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
os.environ['LEFT'] = 'behind'
os.chdir('/tmp')
os.umask(0o777)
"""


async def test_after_a_reset_nothing_of_earlier_cells_remains(config: SandboxConfig) -> None:
    look = """
        import builtins, json, os, sys, threading
        print(sorted(name for name in globals() if not name.startswith('_') and name not in
              {'builtins', 'json', 'os', 'sys', 'threading'}))
        print(os.listdir('/tmp'), os.listdir('/workspace'), os.getcwd(), 'LEFT' in os.environ, oct(os.umask(0o22)))
        print(callable(json.dumps), '/tmp' in sys.path, threading.active_count())
        print(sum(name.isdigit() for name in os.listdir('/proc')) <= 3)
        heap = [line for line in open('/proc/self/maps') if 'rw-p' in line]
        memory = open('/proc/self/mem', 'rb')
        found = 0
        for line in heap:
            start, end = (int(part, 16) for part in line.split()[0].split('-'))
            try:
                memory.seek(start)
                found += memory.read(end - start).count(bytes([97, 32, 115, 101, 99, 114, 101, 116, 32, 111, 102]))
            except (OSError, ValueError, OverflowError):
                pass
        print(found)
    """
    async with Sandbox(config, depth=1) as sandbox:
        await sandbox.load("context", "a secret of the context")
        assert (await sandbox.run(MESS)).outcome == "ok"
        await sandbox.reset()
        lines = (await printed(sandbox, look)).splitlines()
        assert "secret" not in lines[0]
        assert lines[1:] == ["[] [] /workspace False 0o22", "True False 1", "True", "0"]
        await sandbox.load("context", "new")
        assert await printed(sandbox, "print(context)") == "new"


async def test_a_reset_undoes_what_a_cell_did_to_its_own_worker(config: SandboxConfig) -> None:
    async with Sandbox(config, tools={"one": lambda: 1}) as sandbox:
        await sandbox.run("vars(llm_query.__self__).clear()\nvars(FINAL.__self__).clear()")
        await sandbox.reset()
        assert await printed(sandbox, "print(one() + 1)") == "2"
        done = await sandbox.run("import time\ntime.sleep(100)", seconds=0.3)
        assert done.outcome == "timeout"
        assert await printed(sandbox, "print('on')") == "on"


async def test_a_reset_gives_new_streams(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        await sandbox.run("import fcntl, os\nfor n in (1, 2): fcntl.fcntl(n, fcntl.F_SETFL, os.O_NONBLOCK)")
        await sandbox.reset()
        assert await printed(
            sandbox, "import fcntl\nprint([fcntl.fcntl(n, fcntl.F_GETFL) & 0o4000 for n in (1, 2)])"
        ) == ("[0, 0]")


async def test_many_resets_cost_neither_descriptors_nor_processes(config: SandboxConfig) -> None:
    count = "import os\nprint(len(os.listdir('/proc/self/fd')), sum(name.isdigit() for name in os.listdir('/proc')))"
    async with Sandbox(config) as sandbox:
        await sandbox.reset()
        first = await printed(sandbox, count)
        for _ in range(10):
            await sandbox.reset()
        assert await printed(sandbox, count) == first


# Host functions


def lookup(name: str, times: int = 1) -> list[str]:
    """The name, repeated.

    This paragraph is not shown to the model.
    """
    return [name] * times


async def slow(seconds: float) -> str:
    """Waits."""
    await anyio.sleep(seconds)
    return "done"


def careless(path: str) -> str:
    raise FileNotFoundError(f"/home/secret/{path}")


def picky(number: int) -> int:
    raise ToolError(f"{number} is no good")


TOOLS: dict[str, Callable[..., object]] = {
    "lookup": lookup,
    "slow": slow,
    "careless": careless,
    "picky": picky,
    "odd": lambda: object(),
}


async def test_cells_call_functions_of_the_host_with_checked_arguments(config: SandboxConfig) -> None:
    code = """
        print(lookup('a', times=2), lookup('ü'), slow(0.0))
        for call in (lambda: lookup(1), lambda: lookup('a', 'b'), lambda: lookup(), lambda: lookup('a', times=True),
                     lambda: careless('x'), lambda: picky(7), lambda: odd(), lambda: lookup('a', other=1)):
            try:
                print('got', call())
            except ToolError as error:
                print(error)
        try:
            lookup(object())
        except TypeError as error:
            print('TypeError')
        help(lookup)
    """
    async with Sandbox(config, tools=TOOLS) as sandbox:
        lines = (await printed(sandbox, code)).splitlines()
    assert lines[0] == "['a', 'a'] ['ü'] done"
    assert lines[1:9] == [
        "lookup: name: Input should be a valid string.",
        "lookup: times: Input should be a valid integer.",
        "lookup: missing a required argument: 'name'.",
        "lookup: times: Input should be a valid integer.",
        "The tool careless failed.",
        "7 is no good",
        "The tool odd returned a value that is not plain data.",
        "lookup: got an unexpected keyword argument 'other'.",
    ]
    assert lines[9] == "TypeError"
    assert "lookup(name: str, times: int = …)" in "".join(lines[10:])
    assert "secret" not in "".join(lines)


async def test_many_calls_of_tools_run_at_once_and_do_not_use_up_the_cells_time(config: SandboxConfig) -> None:
    code = """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(20) as pool:
            print(set(pool.map(slow, [1.0] * 20)))
    """
    async with Sandbox(config, tools=TOOLS) as sandbox:
        with anyio.fail_after(15):
            assert await printed(sandbox, code, seconds=0.9) == "{'done'}"


async def test_a_slow_tool_times_out(config: SandboxConfig) -> None:
    async with Sandbox(replace(config, tool_seconds=0.2), tools=TOOLS) as sandbox:
        done = await sandbox.run("slow(60.0)")
    assert "ToolError: The tool slow did not return within 0.2 seconds." in done.error


async def test_a_name_that_cells_already_use_cannot_be_a_tool() -> None:
    for name in ("context", "llm_query", "not a name", "class", "_private"):
        with pytest.raises(ConfigError, match=r"name .* is invalid"):
            Sandbox(tools={name: lookup})


def test_sync_sandbox_has_all_methods(config: SandboxConfig) -> None:
    with SyncSandbox(config, tools=TOOLS) as sandbox:
        sandbox.put("a", "text")
        assert sandbox.run("print(lookup(open('a').read()))").stdout == "['text']\n"
        assert sandbox.files() == {"a": 4}
        assert sandbox.get("a") == b"text"
        sandbox.reset()
        assert sandbox.files() == {}


ASK_BELOW = """```repl
mine = lookup('root')
below = llm_query("try it", context="x")
FINAL(f"{mine} {below}")
```"""
TRY = """```repl
try:
    FINAL(str(lookup('child')))
except NameError:
    FINAL('no tool here')
```"""


@pytest.mark.parametrize(("allowed", "below"), [(False, "no tool here"), (True, "['child']")])
async def test_rlms_have_tools_and_their_children_where_allowed(allowed: bool, below: str, tmp_path: Path) -> None:
    prompts: list[str] = []

    def play(messages: Sequence[Message]) -> str:
        prompts.append(messages[0].content)
        return TRY if "try it" in messages[1].content else ASK_BELOW

    seen: list[Event] = []
    done = await Orchestrator(
        depth=2,
        model=ScriptedModel(play, name="m"),
        tools={"lookup": lookup},
        tools_for_children=allowed,
        run_root=tmp_path,
        on_event=seen.append,
    ).acompletion("text", "question")
    assert done.answer == f"['root'] {below}"
    description = "- lookup(name: str, times: int = …) -> list[str]: The name, repeated."
    assert [description in prompt for prompt in prompts] == [True, allowed]
    assert not any("not shown to the model" in prompt for prompt in prompts)
    used = [(event.node, event.arguments, event.ok) for event in seen if isinstance(event, ToolUsed)]
    assert used == [("0", "(['root'], {})", True)] + ([("0.1", "(['child'], {})", True)] if allowed else [])
