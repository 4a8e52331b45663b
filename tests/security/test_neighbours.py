"""Attacking sandboxes cost their neighbours only processor time, and no more than a fair share."""

from __future__ import annotations

import errno
import hashlib
import itertools
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from textwrap import dedent

import anyio
import pytest

from helpers.attacks import BOMBS, DEATHS, FLOODS, HANGS
from rlm import Sandbox, SandboxError
from rlm.sandbox.base import QueryReply, SandboxQuery

pytestmark = [pytest.mark.anyio, pytest.mark.serial]

ATTACK_SECONDS = 2.0
ROUNDS = 60_000  # of hashing in one cell: a few hundredths of a second on an idle processor
MOST_TIMES_FAIR = 2.5  # factor beyond the slowdown that shared processors explain; measured 0.9 to 1.5

WORK = """
import hashlib
value = {value!r}.encode()
for _ in range({rounds}):
    value = hashlib.sha256(value).digest()
seen.append(value.hex())
print(llm_query(value.hex() * 1000))
"""

TAKEN = {
    "descriptors in flight": """
        import socket
        kept = []
        while True:
            kept.append(pair := socket.socketpair())
            socket.send_fds(pair[0], [b"x"], [0])
    """,
    "pages of pipes": """
        import fcntl, os
        kept = []
        while True:
            kept.append(os.pipe())
            fcntl.fcntl(kept[-1][1], fcntl.F_SETPIPE_SZ, 1 << 20)
    """,
    "inotify instances": """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        while libc.inotify_init() >= 0:
            pass
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    """,
}
AIO_AT_ONCE = 128
AIO = f"""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    print(libc.syscall(206, {AIO_AT_ONCE}, ctypes.byref(ctypes.c_ulong())), ctypes.get_errno())
"""
FLUSHED = 2000
FLUSHES = f"""
    import ctypes, mmap, os
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open("/etc/hostname", os.O_RDONLY)
    view = mmap.mmap(file, 0, prot=mmap.PROT_READ)
    done = 0
    for _ in range({FLUSHED}):
        os.fsync(file), os.fdatasync(file), os.sync(), view.flush()
        done += 4 + (libc.syncfs(file) == 0)
    print(done)
"""
FREE = """
import ctypes, fcntl, os, socket
ends = socket.socketpair()
socket.send_fds(ends[0], [b"x"], [0])
assert fcntl.fcntl(os.pipe()[1], fcntl.F_SETPIPE_SZ, 1 << 20) == 1 << 20
assert ctypes.CDLL(None).inotify_init() >= 0
print(len(llm_query("x" * 1_000_000)))
"""


def hashed(value: str) -> str:
    data = value.encode()
    for _ in range(ROUNDS):
        data = hashlib.sha256(data).digest()
    return data.hex()


async def answer(query: SandboxQuery) -> QueryReply:
    """A model that repeats the first 64 characters, after a realistic delay."""
    await anyio.sleep(0.05)
    return QueryReply(ok=True, text=query.prompt[:64])


async def work(sandbox: Sandbox, expected: dict[str, str]) -> None:
    """Run a cell for each value, and check each result and the state kept between cells."""
    assert (await sandbox.run("seen = []")).outcome == "ok"
    for value, result in expected.items():
        done = await sandbox.run(WORK.format(value=value, rounds=ROUNDS), answer=answer)
        assert (done.outcome, done.stdout, done.error) == ("ok", f"{result}\n", "")
    assert (await sandbox.run("print(*seen)")).stdout.split() == list(expected.values())


async def worked(sandboxes: list[Sandbox], expected: dict[str, str]) -> float:
    """Seconds until all have finished their work."""
    began = time.monotonic()
    async with anyio.create_task_group() as group:
        for sandbox in sandboxes:
            group.start_soon(work, sandbox, expected)
    return time.monotonic() - began


async def attack(number: int, made: list[str]) -> None:
    """Run attacks in an endless sequence, and replace lost sandboxes."""
    attacks = itertools.islice(itertools.cycle([*BOMBS, *FLOODS, *HANGS, *DEATHS]), 3 * number, None)
    while True:
        async with Sandbox() as sandbox:
            for each in attacks:
                made.append(each.name)
                try:
                    await sandbox.run(each.code, seconds=ATTACK_SECONDS)
                except SandboxError:
                    break


@pytest.mark.parametrize("name", TAKEN)
async def test_per_user_kernel_limits_are_not_shared_between_sandboxes(name: str) -> None:
    """Each has its own user ID. Otherwise one could exhaust what others need to pass a value or to start."""
    async with Sandbox() as before, Sandbox() as attacker:
        taken = await attacker.run(dedent(TAKEN[name]))
        assert "OSError" in taken.error or "PermissionError" in taken.error
        async with Sandbox() as after:
            for sandbox in (before, after):
                free = await sandbox.run(FREE, answer=answer)
                assert (free.outcome, free.stdout, free.snapshot) == ("ok", "64\n", True), free.error


async def test_machine_wide_kernel_resources_are_unavailable() -> None:
    """Contexts of asynchronous I/O are refused, and the kernel counts none (/proc/sys/fs/aio-nr)."""
    taken = Path("/proc/sys/fs/aio-nr")
    before = int(taken.read_text())
    async with Sandbox() as sandbox:
        result = await sandbox.run(dedent(AIO))
        assert (result.outcome, result.stdout) == ("ok", f"-1 {errno.EPERM}\n")
        assert int(taken.read_text()) - before < AIO_AT_ONCE


async def test_no_sandbox_causes_disk_flushes_on_the_host() -> None:
    """Each call on a file of the host would flush its disk: thousands of times a second (/proc/diskstats)."""
    async with Sandbox() as sandbox:
        before = flushes()
        result = await sandbox.run(dedent(FLUSHES))
        assert (result.outcome, result.stdout) == ("ok", f"{5 * FLUSHED}\n"), result.error
        assert flushes() - before < FLUSHED / 2  # flushes of all other programs


async def test_no_sandbox_can_take_the_terminals_of_the_machine() -> None:
    """The kernel counts them over all containers (pty(7), /proc/sys/kernel/pty/max)."""
    async with Sandbox() as sandbox:
        result = await sandbox.run("import os\nos.openpty()")
        assert "FileNotFoundError" in result.error
        assert "FileNotFoundError" in (await sandbox.run("os.open('/dev/ptmx', os.O_RDWR)")).error


def flushes() -> int:
    """Flushes of all disks of this machine (Documentation/admin-guide/iostats.rst, field 16)."""
    rows = [line.split() for line in Path("/proc/diskstats").read_text().splitlines()]
    return sum(int(row[18]) for row in rows if len(row) > 18)


async def compared(honest: int, attackers: int, cells: int) -> str:
    """Print the measurements."""
    expected = {str(number): hashed(str(number)) for number in range(cells)}
    made: list[str] = []
    async with AsyncExitStack() as opened:
        sandboxes = [Sandbox() for _ in range(honest)]
        async with anyio.create_task_group() as starting:
            for sandbox in sandboxes:
                starting.start_soon(opened.enter_async_context, sandbox)
        alone = await worked(sandboxes, expected)
        async with anyio.create_task_group() as attacking:
            for number in range(attackers):
                attacking.start_soon(attack, number, made)
            await anyio.sleep(1)  # let them start
            beside = await worked(sandboxes, expected)
            attacking.cancel_scope.cancel()
    fair = (honest + attackers) / honest
    assert len(made) >= attackers
    assert beside / alone < fair * MOST_TIMES_FAIR
    return (
        f"{honest} sandboxes with {cells} cells each: alone {alone:.1f} s, beside {attackers} attackers ({len(made)} "
        f"attacks) {beside:.1f} s, which is {beside / alone:.2f} times as long; a fair share of the processors gives "
        f"{fair:.2f}"
    )


async def test_sandboxes_beside_attackers_give_correct_results_and_keep_their_share_of_time(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("slow-down", await compared(honest=6, attackers=2, cells=8))


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_forty_sandboxes_beside_ten_attackers_give_correct_results_and_keep_their_share_of_time(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("slow-down", await compared(honest=40, attackers=10, cells=12))
