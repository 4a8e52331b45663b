"""A thousand sandboxes, started, attacked and removed in sequence, leave nothing behind."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import gettempdir

import pytest

from helpers.attacks import ATTACKS
from helpers.containers import containers
from rlm import Sandbox, SandboxConfig, SandboxError

pytestmark = [pytest.mark.anyio, pytest.mark.serial]

SANDBOXES = int(os.environ.get("RLM_SOAK_SANDBOXES", "1000"))
SECONDS = float(os.environ.get("RLM_SOAK_SECONDS", "180"))
ATTACK_SECONDS = 0.3
WARM = 12  # sandboxes before the first measurement: the engine's client keeps connections, Python caches
GONE_SECONDS = 10.0  # for the kernel and the engine to finish removals
MEMORY_SLACK = 8 << 20


def processes(started: list[str]) -> Iterator[str]:
    """Processes of the containers in `started`, by their control groups, and children of this process."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            groups = (folder / "cgroup").read_text()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == str(os.getpid()) or any(name in groups for name in started):
            yield folder.name


def held(started: list[str]) -> set[str]:
    """Everything that a sandbox could leave behind, by name."""
    gc.collect()
    things = {
        "container": containers(f"rlm.owner.pid={os.getpid()}"),
        "mount": Path("/proc/mounts").read_text().splitlines(),
        "process": processes(started),
        "descriptor": range(len(os.listdir("/proc/self/fd"))),
        "thread": range(threading.active_count()),
        "file": [name for name in os.listdir(gettempdir()) if name.startswith("rlm-")],
    }
    return {f"{kind} {name}" for kind, names in things.items() for name in names}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def attacked(number: int, started: list[str]) -> None:
    """Start, attack and remove one sandbox, alternating between the transports."""
    config = SandboxConfig(transport="unix" if number % 4 == 0 else "attach")
    async with Sandbox(config, run_id="soak", node=str(number)) as sandbox:
        started.append(sandbox.id)
        try:
            await sandbox.run(ATTACKS[number % len(ATTACKS)].code, seconds=ATTACK_SECONDS)
        except SandboxError:
            return  # some attacks cost a sandbox


async def soak(number: int, seconds: float) -> tuple[int, str]:
    """Print the count and the measurements."""
    started: list[str] = []
    for each in range(WARM):
        await attacked(each, started)
    before, memory = held(started), resident()
    began = time.monotonic()
    done = 0
    while done < number and time.monotonic() - began < seconds:
        await attacked(WARM + done, started)
        done += 1
    took = time.monotonic() - began
    until = time.monotonic() + GONE_SECONDS
    left = held(started) - before
    while left and time.monotonic() < until:  # other users of the engine create and remove mounts
        time.sleep(0.1)
        left &= held(started)
    grown = resident() - memory
    assert not left
    assert grown < MEMORY_SLACK
    return done, f"{done:,} in {took:.0f} s; memory {memory / 1e6:.0f} MB, grown by {grown / 1e6:.1f} MB; nothing left"


async def test_sandboxes_that_were_attacked_leave_nothing(record_property: Callable[[str, object], None]) -> None:
    done, measured = await soak(6, 40)
    record_property("sandboxes", measured)
    assert done == 6


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_thousand_sandboxes_that_were_attacked_leave_nothing(
    record_property: Callable[[str, object], None],
) -> None:
    """Run as many as fit into the time (`RLM_SOAK_SANDBOXES`, `RLM_SOAK_SECONDS`)."""
    done, measured = await soak(SANDBOXES, SECONDS)
    record_property("sandboxes", measured)
    assert done >= min(SANDBOXES, 100)
