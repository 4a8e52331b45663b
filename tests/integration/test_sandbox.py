"""Sandboxes in real containers, over both transports: function, isolation, and removal in every case."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from helpers.containers import containers, its_own_cost, ways
from rlm import (
    CellResult,
    ConfigError,
    EngineUnavailable,
    Sandbox,
    SandboxConfig,
    SandboxDied,
    SandboxMisbehaved,
    SandboxStartError,
    SyncSandbox,
)
from rlm.sandbox.base import QueryReply, SandboxQuery
from rlm.sandbox.docker.engine import Engine, default_engine
from rlm.sandbox.docker.image import image_name
from rlm.sandbox.docker.owner import owner_labels
from rlm.sandbox.docker.runtimes import is_gvisor
from rlm.sandbox.docker.spec import UIDS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

MIB = 1 << 20


async def shout(query: SandboxQuery) -> QueryReply:
    return QueryReply(ok=True, text=query.prompt.upper())


async def printed(sandbox: Sandbox, code: str, **options: Any) -> str:
    """The output of a cell, which must succeed."""
    done = await sandbox.run(textwrap.dedent(code), **options)
    assert (done.outcome, done.error) == ("ok", "")
    return done.stdout.strip()


# Cells


async def test_a_cell_returns_its_output_and_last_value(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        done = await sandbox.run("import sys\nprint('hello', file=sys.stderr)\nprint(1)\n6 * 7")
    assert done == CellResult(outcome="ok", stdout="1\n42\n", stderr="hello\n", seconds=done.seconds)
    assert 0 < done.seconds < 10


async def test_state_is_kept_from_cell_to_cell_and_an_exception_is_a_result(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        await sandbox.run("import math\nx = 40\ndef f():\n    return x + y")
        done = await sandbox.run("y = 2\nraise ValueError('no')")
        assert (done.outcome, done.rolled_back) == ("error", False)
        assert "ValueError: no" in done.error
        assert await printed(sandbox, "print(f(), math.floor(2.5))") == "42 2"


async def test_the_same_cell_does_the_same_in_every_sandbox(config: SandboxConfig) -> None:
    output = []
    for _ in range(2):
        async with Sandbox(config) as sandbox:
            output.append(await printed(sandbox, "print(hash('a'), list({'some', 'words', 'in', 'a', 'set'}))"))
    assert output[0] == output[1]


async def test_output_is_streamed_while_the_cell_runs(config: SandboxConfig) -> None:
    reported: list[tuple[str, str]] = []

    async def wait_for_it(query: SandboxQuery) -> QueryReply:
        with anyio.fail_after(10):
            while ("stdout", "before\n") not in reported:
                await anyio.sleep(0.01)
        return QueryReply(ok=True, text="seen")

    async with Sandbox(config, depth=1) as sandbox:
        code = "print('before', flush=True)\nprint(llm_query('?'))"
        done = await sandbox.run(
            code, answer=wait_for_it, on_output=lambda stream, text: reported.append((stream, text))
        )
    assert done.stdout == "before\nseen\n"


async def test_a_flood_of_output_arrives_as_head_and_tail(config: SandboxConfig) -> None:
    config = replace(config, max_output_bytes=100_000)
    async with Sandbox(config) as sandbox:
        done = await sandbox.run(
            "import sys\n_ = sys.stdout.write('head' + 'x' * 50_000_000 + 'tail')\n_ = sys.stderr.write('y' * 20_000_000)"
        )
        assert done.outcome == "ok"
        assert done.stdout.startswith("headxxx")
        assert done.stdout.endswith("xxxtail")
        assert done.stdout_cut == 50_000_008 - 100_000
        assert done.stderr_cut == 20_000_000 - 100_000
        assert len(done.stdout) < 101_000
        assert await printed(sandbox, "print('and on')") == "and on"


async def test_bytes_that_are_no_text_arrive_escaped(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        assert await printed(sandbox, r"import os; _ = os.write(1, b'\xff\x00\n')") == "\\xff\x00"
        assert await printed(sandbox, r"print('\ud800')") == r"\ud800"


# Values

LINES = "line\r\nline\rline\n\0end, \ud800 alone, 世界 🎉"

VALUES: dict[str, Callable[[], Any]] = {
    "text": lambda: LINES * 50_000,
    "ascii": lambda: "x" * 20_000_000,
    "empty text": lambda: "",
    "list": lambda: [LINES, "", None, True, -1, 2**63, 0.5, b"\xff\0"] * 20_000,
    "dict": lambda: {"rows": [{"id": i, "text": LINES} for i in range(5000)], 1: "one", -7: {2: [3]}},
    "bytes": lambda: bytes(range(256)) * 50_000,
}
FINGERPRINT = """
import hashlib

def fingerprint(value):
    total = hashlib.sha256()
    def walk(item):
        total.update(type(item).__name__.encode())
        if isinstance(item, dict):
            for key, entry in item.items():
                walk(key)
                walk(entry)
        elif isinstance(item, list):
            for entry in item:
                walk(entry)
        elif isinstance(item, str):
            total.update(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, bytes):
            total.update(item)
        else:
            total.update(repr(item).encode())
        total.update(b".")
    walk(value)
    return total.hexdigest()
"""


def fingerprint(value: object) -> str:
    """The same fingerprint as in the sandbox: equal for equal values of equal types."""
    namespace: dict[str, Any] = {}
    exec(FINGERPRINT, namespace)
    return str(namespace["fingerprint"](value))


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES.keys())
async def test_an_arriving_value_equals_the_given_one(config: SandboxConfig, make: Callable[[], Any]) -> None:
    value = make()
    async with Sandbox(config, context_bytes=50 * MIB) as sandbox:
        loaded = await sandbox.load("context", value)
        assert (loaded.type, loaded.size) == (type(value).__name__, len(value))
        await sandbox.run(FINGERPRINT)
        assert await printed(sandbox, "print(fingerprint(context))") == fingerprint(value)


async def test_tuples_arrive_as_lists(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        await sandbox.load("context", [(1, 2), {"a": (3,)}])
        assert await printed(sandbox, "print(context)") == "[[1, 2], {'a': [3]}]"


async def test_files_and_folders_arrive_as_text_or_bytes(config: SandboxConfig, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/text.txt").write_bytes("über\r\n".encode())
    (folder / "data.bin").write_bytes(b"\xff\0" * 500_000)
    (folder / "link").symlink_to("/etc/passwd")
    async with Sandbox(config) as sandbox:
        loaded = await sandbox.load("context", folder)
        assert (loaded.type, loaded.size) == ("dict", 2)
        code = (
            r"print(list(context), context['sub/text.txt'] == 'über\r\n', context['data.bin'] == b'\xff\0' * 500_000)"
        )
        assert await printed(sandbox, code) == "['data.bin', 'sub/text.txt'] True True"
        await sandbox.load("one", folder / "sub/text.txt")
        assert await printed(sandbox, r"print(one == 'über\r\n')") == "True"


async def test_a_value_that_the_sandbox_cannot_build_is_the_callers_error_and_the_sandbox_lives(
    config: SandboxConfig,
) -> None:
    async with Sandbox(config) as sandbox:
        with pytest.raises(ConfigError, match="memory"):
            await sandbox.load("context", "x" * 400_000_000)
        many = [{"row": number} for number in range(1000)]
        with pytest.raises(ConfigError):
            await sandbox.load("context", [*many, {(1, 2): "no"}])
        await sandbox.load("context", "small")
        assert await printed(sandbox, "print(context)") == "small"


# Bad cells affect only themselves

BAD_CELLS = {
    "a loop without end": ("while True: pass", "timeout"),
    "sleep": ("import time; time.sleep(1000)", "timeout"),
    "a loop in C": ("sum(range(10**12))", "timeout"),
    "signals ignored": (
        "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\n"
        "while True: pass",
        "timeout",
    ),
    "stopped": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "died"),
    "abort": ("import os; os.abort()", "died"),
    "_exit": ("import os; os._exit(0)", "died"),
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "died"),
    "every descriptor closed": ("import os; os.closerange(0, 1024)", "died"),
}


@pytest.mark.parametrize("config", ways(daily=1), indirect=True)
@pytest.mark.parametrize(("code", "outcome"), BAD_CELLS.values(), ids=BAD_CELLS.keys())
async def test_a_cell_that_hangs_or_dies_is_rolled_back(config: SandboxConfig, code: str, outcome: str) -> None:
    async with Sandbox(config) as sandbox:
        await sandbox.run("kept = {'a': [1]}")
        done = await sandbox.run(f"kept['a'].append(2)\nprint('said', flush=True)\n{code}", seconds=1)
        assert (done.outcome, done.rolled_back) == (outcome, True)
        assert done.error
        assert done.stdout == "said\n"
        assert await printed(sandbox, "print(kept)") == "{'a': [1]}"


@pytest.mark.parametrize(
    "code",
    [
        "hog = []\nwhile True: hog.append(bytearray(10_000_000))",
        "hog = b'x' * (1 << 40)",
        "def recurse(): return recurse()\nrecurse()",
    ],
    ids=["bit by bit", "at once", "recursion"],
)
async def test_memory_used_up_is_an_exception_and_costs_nothing(config: SandboxConfig, code: str) -> None:
    async with Sandbox(config) as sandbox:
        await sandbox.run("kept = 1")
        done = await sandbox.run(code)
        assert done.outcome in ("error", "died")
        await sandbox.run("hog = None")
        assert await printed(sandbox, "print(kept)") == "1"


@pytest.mark.parametrize("config", ways(daily=1), indirect=True)
async def test_memory_used_up_by_many_processes_ends_the_cell_only(config: SandboxConfig) -> None:
    code = """
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                hog = bytearray(200_000_000)
                time.sleep(100)
        time.sleep(100)
    """
    async with Sandbox(config) as sandbox:
        await sandbox.run("kept = 1")
        with its_own_cost(config):
            await sandbox.run(textwrap.dedent(code), seconds=3)
            assert await printed(sandbox, "print(kept)") == "1"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()",
        "import subprocess, sys\nps = [subprocess.Popen([sys.executable, '-c', 'while 1: pass']) for _ in range(1000)]",
    ],
    ids=["forks", "threads", "programs"],
)
@pytest.mark.parametrize("config", ways(daily=1), indirect=True)
async def test_processes_without_end_are_bounded_and_cleared_away(config: SandboxConfig, code: str) -> None:
    async with Sandbox(config) as sandbox:
        await sandbox.run("kept = 1")
        with its_own_cost(config):
            await sandbox.run(code, seconds=2)
            assert await printed(sandbox, "print(kept)") == "1"
            alive = await printed(sandbox, "import os; print(sum(name.isdigit() for name in os.listdir('/proc')))")
            assert int(alive) <= 4


async def test_a_disk_filled_up_is_an_exception(config: SandboxConfig) -> None:
    async with Sandbox(replace(config, tmp_bytes=8 * MIB)) as sandbox:
        done = await sandbox.run("open('/tmp/big', 'wb').write(b'x' * 20_000_000)")
        assert (done.outcome, "No space left" in done.error) == ("error", True)
        done = await sandbox.run("import os\nfor i in range(100_000): open(f'/workspace/{i}', 'w').close()")
        if not is_gvisor(config.runtime):  # it does not count files; the sandbox's memory limits them
            assert (done.outcome, "No space left" in done.error) == ("error", True)
        assert await printed(sandbox, "print('on')") == "on"


# Queries


async def test_calls_are_answered_in_any_order_and_arrive_in_theirs(config: SandboxConfig) -> None:
    arrived: list[str] = []

    async def answer(query: SandboxQuery) -> QueryReply:
        arrived.append(query.prompt)
        await anyio.sleep(0.02 * (20 - int(query.prompt)))
        return QueryReply(ok=True, text=f"answer {query.prompt}")

    async with Sandbox(config, depth=1) as sandbox:
        with anyio.fail_after(20):
            code = "print(llm_batch([str(i) for i in range(20)]) == [f'answer {i}' for i in range(20)])"
            assert await printed(sandbox, code, answer=answer) == "True"
    assert sorted(arrived, key=int) == [str(number) for number in range(20)]


async def test_a_call_that_fails_is_an_exception_in_the_cell_and_a_slot_of_a_batch(config: SandboxConfig) -> None:
    async def answer(query: SandboxQuery) -> QueryReply:
        return QueryReply(ok=query.prompt != "bad", text=f"about {query.prompt}")

    async with Sandbox(config, depth=1) as sandbox:
        done = await sandbox.run("llm_query('bad')", answer=answer)
        assert (done.outcome, "LLMError: about bad" in done.error) == ("error", True)
        code = "a = llm_batch(['x', 'bad', 'y']); print(list(a), [bool(x) for x in a])"
        assert await printed(sandbox, code, answer=answer) == "['about x', 'about bad', 'about y'] [True, False, True]"


async def test_large_prompts_and_answers_arrive_byte_for_byte(config: SandboxConfig) -> None:
    async with Sandbox(config, depth=1) as sandbox:
        code = r"t = 'ab\r\n\0ü)\ud800FINAL(' * 300_000; print(llm_query(t) == t.upper())"
        assert await printed(sandbox, code, answer=shout) == "True"


async def test_a_final_answer_of_any_length_arrives_byte_for_byte(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        done = await sandbox.run(r"""FINAL(')"\n\r\n\0 FINAL(x) ' * 200_000)""")
        assert done.answer == ')"\n\r\n\0 FINAL(x) ' * 200_000


async def test_a_context_of_a_call_is_passed_on_unchanged(config: SandboxConfig) -> None:
    got: list[tuple[str, bytes]] = []

    async def answer(query: SandboxQuery) -> QueryReply:
        assert query.context is not None
        got.append((query.context.kind, b"".join(query.context.pieces())))
        return QueryReply(ok=True, text="")

    async with Sandbox(config, depth=2) as sandbox:
        await sandbox.run("llm_query('?', context='x' * 1_000_000)", answer=answer)
    assert got == [("text", b"x" * 1_000_000)]


async def test_the_clock_stands_still_during_a_call(config: SandboxConfig) -> None:
    async def slow(query: SandboxQuery) -> QueryReply:
        await anyio.sleep(1.5)
        return QueryReply(ok=True, text="at last")

    async with Sandbox(config, depth=1) as sandbox:
        done = await sandbox.run("print(llm_query('?'))", seconds=1, answer=slow)
    assert (done.outcome, done.stdout) == ("ok", "at last\n")
    assert done.seconds < 1


# Containers disappear


async def test_no_container_is_left_after_success_error_and_cancellation(config: SandboxConfig) -> None:
    run_id = f"gone-{os.getpid()}"
    async with Sandbox(config, run_id=run_id) as sandbox:
        assert containers(f"rlm.run={run_id}") == [sandbox.id]
    assert containers(f"rlm.run={run_id}") == []

    with pytest.raises(LookupError):
        async with Sandbox(config, run_id=run_id):
            raise LookupError
    assert containers(f"rlm.run={run_id}") == []

    with anyio.move_on_after(0.5):
        async with Sandbox(config, run_id=run_id) as sandbox:
            await sandbox.run("while True: print('x' * 10_000)")
    assert containers(f"rlm.run={run_id}") == []


@pytest.mark.parametrize("milliseconds", [0, 2, 10, 30, 60, 90, 120, 150, 200])
async def test_no_container_is_left_when_a_start_is_cancelled(config: SandboxConfig, milliseconds: int) -> None:
    run_id = f"early-{os.getpid()}"
    with anyio.move_on_after(milliseconds / 1000):
        async with Sandbox(config, run_id=run_id):
            await anyio.sleep_forever()
    assert containers(f"rlm.run={run_id}") == []


async def test_nothing_is_left_when_the_orchestrator_is_killed(config: SandboxConfig, tmp_path: Path) -> None:
    run_id = f"killed-{os.getpid()}-{config.transport}"
    code = f"""
        import anyio
        from rlm import Sandbox, SandboxConfig

        async def main():
            async with Sandbox(SandboxConfig(transport={config.transport!r}), run_id={run_id!r}) as sandbox:
                cell = "print('running', flush=True)\\nwhile True: pass"
                await sandbox.run(cell, on_output=lambda stream, text: print(text, end="", flush=True))

        anyio.run(main)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as orchestrator:
        assert orchestrator.stdout is not None
        assert orchestrator.stdout.readline() == "running\n"
        assert len(containers(f"rlm.run={run_id}")) == 1
        orchestrator.kill()
    with anyio.fail_after(10):
        while containers(f"rlm.run={run_id}"):
            await anyio.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


async def test_after_a_cancelled_cell_the_sandbox_says_that_it_is_unusable(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        with anyio.move_on_after(0.2):
            await sandbox.run("while True: pass")
        with pytest.raises(SandboxDied, match="no longer usable"):
            await sandbox.run("1")


async def test_a_sandbox_killed_from_outside_has_died_and_says_why(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        async with anyio.create_task_group() as group:

            async def kill() -> None:
                await anyio.sleep(0.2)
                await anyio.run_process(["docker", "kill", sandbox.id])

            group.start_soon(kill)
            with pytest.raises(SandboxDied, match="killed from outside"):
                await sandbox.run("while True: pass")
        assert containers(f"rlm.owner.pid={os.getpid()}") == []
        with pytest.raises(SandboxDied, match="no longer usable"):
            await sandbox.run("1")


async def test_a_sandbox_that_misbehaves_is_removed_at_once(config: SandboxConfig) -> None:
    forget_the_limit = "from dataclasses import replace\ncalls = llm_query.__self__\n"
    forget_the_limit += "calls._start = replace(calls._start, max_value_bytes=10**9)\n"
    async with Sandbox(replace(config, max_value_bytes=1000), depth=1) as sandbox:
        with pytest.raises(SandboxMisbehaved, match="protocol"):
            await sandbox.run(forget_the_limit + "llm_query('x' * 100_000)", answer=shout)
        assert containers(f"rlm.owner.pid={os.getpid()}") == []
        with pytest.raises(SandboxDied, match="no longer usable"):
            await sandbox.run("1")


async def test_a_container_that_exits_at_its_start_is_an_error_with_its_output(config: SandboxConfig) -> None:
    broken = f"rlm-broken-{os.getpid()}"
    made = subprocess.run(
        ["docker", "build", "--quiet", "--tag", broken, "-"],
        input=f'FROM {image_name()}\nENTRYPOINT ["python3", "-c", "raise SystemExit(\'no luck\')"]\n',
        text=True,
        capture_output=True,
        check=True,
    )
    assert made.stdout
    try:
        with anyio.fail_after(10), pytest.raises(SandboxStartError, match=r"exit code 1.*no luck"):
            async with Sandbox(replace(config, image=broken)):
                pass
    finally:
        subprocess.run(["docker", "image", "rm", "--force", broken], check=True, capture_output=True)


async def test_a_container_that_does_not_come_up_in_time_is_an_error(config: SandboxConfig) -> None:
    with pytest.raises(SandboxStartError, match=r"0\.02 s"):
        async with Sandbox(replace(config, start_seconds=0.02)):
            pass


async def test_a_missing_runtime_is_reported_before_anything_starts(config: SandboxConfig) -> None:
    with pytest.raises(EngineUnavailable, match=r"no runtime 'no-such-runtime', only .*runc"):
        async with Sandbox(replace(config, runtime="no-such-runtime")):
            pass


async def test_a_missing_image_or_engine_is_reported_with_the_fix() -> None:
    with pytest.raises(EngineUnavailable, match=r"no-such-image.*rlm image build"):
        async with Sandbox(SandboxConfig(image="no-such-image")):
            pass

    def refuse() -> Any:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(EngineUnavailable, match=r"nowhere.*start it"):
        async with Sandbox(engine=Engine(refuse, "nowhere")):
            pass


async def test_an_image_of_other_sources_is_refused(config: SandboxConfig) -> None:
    stranger = f"rlm-stranger-{os.getpid()}"
    dockerfile = f"FROM {image_name()}\nLABEL rlm.digest=0000\n"
    command = ["docker", "build", "--quiet", "--tag", stranger, "-"]
    subprocess.run(command, input=dockerfile, text=True, capture_output=True, check=True)
    try:
        with pytest.raises(EngineUnavailable, match=r"other sources.*rlm image build"):
            async with Sandbox(replace(config, image=stranger)):
                pass
    finally:
        subprocess.run(["docker", "image", "rm", "--force", stranger], check=True, capture_output=True)


async def test_many_sandboxes_start_and_end_at_once_and_leave_nothing_open(config: SandboxConfig) -> None:
    answers: list[str] = []

    async def one(number: int) -> None:
        async with Sandbox(config) as sandbox:
            answers.append(await printed(sandbox, f"print({number})"))

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, number)

    await all_of_them()
    open_files = len(os.listdir("/proc/self/fd"))
    await all_of_them()
    await all_of_them()
    assert len(os.listdir("/proc/self/fd")) < open_files + 10, "the client keeps up to 10 connections of its own"
    assert sorted(answers, key=int) == sorted([str(number) for number in range(10)] * 3, key=int)


# Isolation


async def test_two_sandboxes_see_nothing_of_each_other(config: SandboxConfig) -> None:
    async with Sandbox(config) as one, Sandbox(config) as other:
        assert one.id != other.id
        await one.run("secret = 1; open('/tmp/secret', 'w').write('x'); open('/workspace/secret', 'w').write('x')")
        code = "import os; print('secret' in globals(), os.listdir('/tmp'), os.listdir('/workspace'))"
        assert await printed(other, code) == "False [] []"


async def test_inside_there_is_no_root_no_capability_no_network_and_nothing_to_write(config: SandboxConfig) -> None:
    code = """
        import os
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(os.getuid(), os.getgid(), os.getgroups(), os.uname().nodename)
        print({name: int(status.get(name, "0"), 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")})
        print(status.get("NoNewPrivs", "1").strip(), status["Seccomp"].strip(), os.getpid() != 1)
        print(sorted(line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]))
        print(sorted(os.environ))
        for place in ("/", "/opt/rlm/x", "/usr/x", "/etc/x", "/run/rlm/x", "/dev/x", "/proc/sys/kernel/x"):
            try:
                open(os.path.join(place, "file") if place == "/" else place, "w")
                print("wrote", place)
            except OSError:
                pass
        mounts = {line.split()[1]: line.split()[2:4] for line in open("/proc/mounts")}
        for place in ("/tmp", "/workspace"):
            kind, flags = mounts[place]
            print(kind, {"noexec", "nosuid", "nodev"} <= set(flags.split(",")))
        print(mounts["/"][1].split(",")[0], "/dev/shm" in mounts)
    """
    async with Sandbox(config) as sandbox:
        output = (await printed(sandbox, code)).splitlines()
    uid = output[0].split()[0]
    assert int(uid) in UIDS
    bound = 0xEA if is_gvisor(config.runtime) else 0  # spec.GVISOR_CAPABILITIES: the supervisor's, in gVisor's kernel
    caps = f"{{'CapInh': 0, 'CapPrm': 0, 'CapEff': 0, 'CapBnd': {bound}, 'CapAmb': 0}}"
    assert re.fullmatch(rf"{uid} {uid} \[({uid})?\] sandbox", output[0])
    assert output[1:4] == [caps, "1 2 True", "['lo']"]
    allowed = {
        "HOME",
        "HOSTNAME",
        "LANG",
        "MALLOC_ARENA_MAX",
        "PATH",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONHASHSEED",
        "USER",
    }
    assert set(ast.literal_eval(output[4])) <= allowed | {
        "PYTHONPATH",
        "LC_CTYPE",
        "PYTHON_VERSION",
        "PYTHON_SHA256",
        "GPG_KEY",
    }
    tmpfs = f"tmpfs {not is_gvisor(config.runtime)}"  # gVisor enforces these flags, but does not list them
    assert output[5:] == [tmpfs, tmpfs, "ro False"]


async def test_the_channel_is_out_of_reach_of_a_cell(config: SandboxConfig) -> None:
    code = """
        import os, socket
        for place in ["/proc/1/mem", "/proc/1/root/tmp", *(f"/proc/1/fd/{n}" for n in range(20))]:
            for mode in ("rb", "wb"):
                try:
                    opened = open(place, mode)
                    if os.fstat(opened.fileno()).st_rdev != os.stat("/dev/null").st_rdev:
                        print("open", opened)
                except OSError:
                    pass
        print(os.path.exists("/run/rlm/channel.sock"))
    """
    async with Sandbox(config) as sandbox:
        assert await printed(sandbox, code) == "False"


async def test_labels_say_whose_a_container_is(config: SandboxConfig) -> None:
    async with Sandbox(config, run_id="Run 7/ü", node="0.3") as sandbox:
        template = '{{index .Config.Labels "rlm.run"}}|{{index .Config.Labels "rlm.node"}}|{{.Name}}'
        command = ["docker", "inspect", "--format", template, sandbox.id]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        assert containers(f"rlm.owner.pid={os.getpid()}") == [sandbox.id]
    run, node, name = output.split("|")
    assert (run, node) == ("Run 7/ü", "0.3")
    assert name.startswith("/rlm-Run-7--")


# The end of a sandbox's life


async def test_a_sandbox_ends_when_its_lifetime_is_over_whatever_it_does(config: SandboxConfig) -> None:
    async with Sandbox(replace(config, lifetime_seconds=2.5)) as sandbox:
        with anyio.fail_after(30), pytest.raises(SandboxDied, match=r"lifetime of 2\.5 seconds is over"):
            await sandbox.run(
                "import signal, os, time\nsignal.alarm(0)\nfor s in range(1, 65):\n"
                "    try: os.kill(1, s)\n    except (OSError, ProcessLookupError): pass\n"
                "while True: time.sleep(1)"
            )
        assert containers(f"rlm.owner.pid={os.getpid()}") == []


ABANDONED = """
import anyio, os, signal
from rlm import Sandbox, SandboxConfig

async def main():
    async with Sandbox(SandboxConfig(runtime={runtime!r}, transport={transport!r}, lifetime_seconds=3)) as sandbox:
        print(sandbox.id, flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

anyio.run(main)
"""


def test_a_sandbox_ends_after_its_lifetime_when_its_orchestrator_hangs(config: SandboxConfig) -> None:
    code = ABANDONED.format(runtime=config.runtime, transport=config.transport)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as orchestrator:
        assert orchestrator.stdout is not None
        try:
            container = orchestrator.stdout.readline().strip()
            assert containers(f"rlm.owner.pid={orchestrator.pid}") == [container]
            deadline = time.monotonic() + 20
            while containers(f"rlm.owner.pid={orchestrator.pid}") and time.monotonic() < deadline:
                time.sleep(0.1)
            assert containers(f"rlm.owner.pid={orchestrator.pid}") == []
        finally:
            orchestrator.kill()


@pytest.mark.serial
async def test_the_next_start_removes_the_sandboxes_of_a_killed_orchestrator() -> None:
    ended = owner_labels() | {"rlm.owner.start": "1", "rlm.owner.pid": "4000000"}
    strangers = ended | {"rlm.owner.uid": "4000000"}
    made = {}
    for whose, labels in {"ended": ended, "strangers": strangers}.items():
        options = [f"--label={name}={value}" for name, value in labels.items()]
        command = ["docker", "create", "--network=none", *options, image_name()]
        made[whose] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        engine = default_engine()
        async with Sandbox(engine=Engine(engine._connect, "again")) as sandbox:  # like a new process
            assert containers("rlm.owner.pid=4000000") == [made["strangers"]]
            assert sandbox.id in containers(f"rlm.owner.pid={os.getpid()}")
    finally:
        subprocess.run(["docker", "rm", "--force", made["strangers"]], check=True, capture_output=True)


# The blocking sandbox


def test_sync_sandbox_does_the_same(config: SandboxConfig) -> None:
    reported: list[str] = []
    with SyncSandbox(config, depth=1) as sandbox:
        assert containers(f"rlm.owner.pid={os.getpid()}") == [sandbox.id]
        assert sandbox.load("context", ["a", "b"]).type == "list"
        done = sandbox.run(
            "print(len(context), llm_query('ask'))",
            answer=lambda query: QueryReply(ok=True, text=query.prompt.upper()),
            on_output=lambda stream, text: reported.append(text),
        )
        assert (done.stdout, "".join(reported)) == ("2 ASK\n", "2 ASK\n")
        with pytest.raises(ConfigError):
            sandbox.load("context", object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="with"):
        sandbox.run("1")


def test_answers_still_running_after_their_cells_are_bounded(config: SandboxConfig) -> None:
    release = threading.Event()
    ask = """
        import threading, time
        for _ in range(16): threading.Thread(target=llm_query, args=("x",), daemon=True).start()
        time.sleep(0.3)
    """

    def answer(query: SandboxQuery) -> QueryReply:
        release.wait(30)
        return QueryReply(ok=True, text="late")

    before = threading.active_count()
    with SyncSandbox(config, depth=1) as sandbox:
        try:
            for _ in range(4):
                sandbox.run(textwrap.dedent(ask), answer=answer)
            assert threading.active_count() - before < 4 * 16
        finally:
            release.set()


async def test_a_sandbox_that_was_not_started_says_so() -> None:
    with pytest.raises(ConfigError, match="async with"):
        await Sandbox().run("1")
