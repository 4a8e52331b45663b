"""Each attack costs its own cell at most: what the model reads, what the next cell finds, and the host are looked at.

The system calls are tried by their numbers on x86_64.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attacks import ATTACKS, Attack
from containers import offered, ways
from rlm import CellResult, Sandbox, SandboxConfig, SandboxDied
from rlm.sandbox.runtimes import GVISOR
from rlm.transcript import describe

pytestmark = pytest.mark.anyio

SECONDS = 2.0
SHOWN_CHARS = 20_000
MOST_SECONDS = 30.0  # for one attack with all that surrounds it, on a crowded machine
MEMORY_SLACK = 64 << 20  # that the orchestrator's own process may grow by in one attack


def listening() -> set[str]:
    """Local addresses that this process listens on (state 0A in /proc/net/tcp, proc_net(5))."""
    mine = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and link.exists()}
    lines = [line for kind in ("tcp", "tcp6", "udp") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    rows = [line.split() for line in lines]
    return {row[1] for row in rows if row[3] in ("0A", "07") and f"socket:[{row[9]}]" in mine}


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def host_is_unchanged(tmp_path: Path) -> Iterator[None]:
    """Canary files, this process's descriptors, children and memory, listening sockets."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    world = Path(f"/tmp/rlm-canary-{os.getpid()}")
    world.write_text("alive")
    world.chmod(0o666)
    try:
        before = listening(), len(os.listdir("/proc/self/fd")), memory()
        yield
        after = listening(), len(os.listdir("/proc/self/fd")), memory()
        assert after[0] <= before[0]
        assert after[1] <= before[1] + 8  # the engine's client keeps a few connections
        assert after[2] <= before[2] + MEMORY_SLACK
        assert canary.read_text() == world.read_text() == "alive"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["canary"]
        assert not Path("/tmp/sda").exists()
    finally:
        world.unlink()


async def attacked(sandbox: Sandbox, attack: Attack) -> CellResult | None:
    """The attack's result; None where the sandbox was lost as a whole."""
    try:
        return await sandbox.run(attack.code, seconds=SECONDS)
    except SandboxDied:
        return None


@pytest.mark.usefixtures("host_is_unchanged")
@pytest.mark.parametrize("config", ways(daily=1))
@pytest.mark.parametrize("attack", [pytest.param(attack, id=attack.name) for attack in ATTACKS])
async def test_an_attack_costs_its_own_cell_at_most(
    attack: Attack, config: SandboxConfig, record_property: Callable[[str, object], None]
) -> None:
    record_property("attack", attack.name)
    record_property("way", f"{config.runtime or 'runc'}-{config.transport}")
    if config.runtime == GVISOR:
        attack = replace(attack, **attack.gvisor)
    began = time.monotonic()
    async with Sandbox(offered(config)) as sandbox:
        assert (await sandbox.run("kept = 'kept'")).outcome == "ok"
        result = await attacked(sandbox, attack)
        record_property("came_to", "lost" if result is None else result.outcome)
        if result is None:
            assert attack.lost
            return
        shown = describe(result, limit=SHOWN_CHARS)
        assert len(shown) < 3 * SHOWN_CHARS + 1000
        assert result.outcome in attack.outcomes, shown
        assert re.search(attack.sees, shown), shown
        assert "ALLOWED" not in shown
        try:
            after = await sandbox.run("assert kept == 'kept'")
        except SandboxDied:
            assert attack.lost
            return
        assert after.outcome == "ok" or attack.lost, (after, shown)
    assert time.monotonic() - began < MOST_SECONDS
