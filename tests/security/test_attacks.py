"""Each attack costs at most its own cell: tests check what the model reads, what the next cell finds, and the host.

System calls are tried by their x86_64 numbers.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.attacks import ATTACKS, Attack
from helpers.attacks_out import CALLS, OUTPUTS, SECRET, TOOLS
from helpers.containers import offered, ways
from rlm import Sandbox, SandboxConfig, SandboxDied
from rlm.loop.observation import describe
from rlm.sandbox.docker.runtimes import GVISOR
from rlm.sandbox.docker.spec import UIDS
from rlm.sandbox.script import collect_files

pytestmark = pytest.mark.anyio

SECONDS = {None: 1.5, GVISOR: 3.0}  # time limit of an attack, by runtime
SHOWN_CHARS = 20_000
SHOWN_FILES = 100
MAX_TAKEN = 64 << 20  # total size of the files fetched after one attack
MOST_SECONDS = 30.0  # for one attack with setup and checks, on a busy machine
MEMORY_SLACK = 64 << 20  # how much the orchestrator's process may grow in one attack


def listening() -> set[str]:
    """Local addresses on which this process listens (state 0A in /proc/net/tcp, proc_net(5))."""
    mine = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and link.exists()}
    lines = [line for kind in ("tcp", "tcp6", "udp") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    rows = [line.split() for line in lines]
    return {row[1] for row in rows if row[3] in ("0A", "07") and f"socket:[{row[9]}]" in mine}


def children() -> set[str]:
    """Running children of this process."""
    found = set[str]()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found.update(path.read_text().split())
    return found


def escaped() -> list[str]:
    """Processes with a sandbox user id outside all containers (NSpid in proc(5): one number per namespace)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has ended
            fields = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
            if len(fields["NSpid"].split()) == 1 and int(fields["Uid"].split()[0]) in UIDS:
                found.append(f"{path.parent.name} {fields['Name']}")
    return found


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def host_is_unchanged(tmp_path: Path) -> Iterator[None]:
    """Canary files, processes, this process's descriptors and memory, listening sockets."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    world = Path(f"/tmp/rlm-canary-{os.getpid()}")
    world.write_text("alive")
    world.chmod(0o666)
    try:
        before = listening(), len(os.listdir("/proc/self/fd")), memory()
        children_before = children()
        yield
        after = listening(), len(os.listdir("/proc/self/fd")), memory()
        assert children() <= children_before
        assert escaped() == []
        assert after[0] <= before[0]
        assert after[1] <= before[1] + 8  # the engine's client keeps a few connections
        assert after[2] <= before[2] + MEMORY_SLACK
        assert canary.read_text() == world.read_text() == "alive"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["canary"]
        assert not Path("/tmp/sda").exists()
    finally:
        world.unlink()


async def attacked(sandbox: Sandbox, attack: Attack, out: Path, *, seconds: float) -> tuple[str, str]:
    """The outcome, and the text that the model reads; if files were requested, also the caller's."""
    try:
        result = await sandbox.run(attack.code, seconds=seconds)
    except SandboxDied as error:
        if not attack.lost:
            raise
        return "lost", str(error)
    shown = describe(result, limit=SHOWN_CHARS)
    assert result.outcome in attack.outcomes, shown
    if attack.takes:
        taken = await collect_files(sandbox, attack.takes, out, max_bytes=MAX_TAKEN, max_file_bytes=MAX_TAKEN)
        wrote = [f"wrote {path.relative_to(out)}" for path in taken.files]
        shown = "\n".join([shown, *taken.skipped, *wrote[:SHOWN_FILES]])
    assert re.search(attack.sees, shown), shown
    return result.outcome, shown


def check_files(out: Path) -> None:
    """Fetched files are plain, of limited size, from the sandbox, and without names that other programs interpret."""
    found = [path for path in out.rglob("*") if path.is_symlink() or not path.is_dir()]
    for path in found:
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert status.st_nlink == 1
        assert not status.st_mode & 0o7111
        assert not any(part.startswith((".", "-")) or not part.isprintable() for part in path.relative_to(out).parts)
    assert sum(path.stat().st_size for path in found) <= MAX_TAKEN
    swapped = out / "swapped"
    assert not swapped.exists() or swapped.read_text() == "mine"


@pytest.mark.usefixtures("host_is_unchanged")
@pytest.mark.parametrize("config", ways(daily=1))
@pytest.mark.parametrize("attack", [pytest.param(attack, id=attack.name) for attack in [*ATTACKS, *OUTPUTS, *CALLS]])
async def test_an_attack_costs_its_own_cell_at_most(
    attack: Attack,
    config: SandboxConfig,
    tmp_path_factory: pytest.TempPathFactory,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("attack", attack.name)
    record_property("way", f"{config.runtime or 'runc'}-{config.transport}")
    if config.runtime == GVISOR:
        attack = replace(attack, **attack.gvisor)
    out = tmp_path_factory.mktemp("out")
    began = time.monotonic()
    async with Sandbox(offered(config), tools=TOOLS) as sandbox:
        assert (await sandbox.run("kept = 'kept'")).outcome == "ok"
        outcome, shown = await attacked(sandbox, attack, out, seconds=SECONDS[config.runtime])
        if outcome != "lost":
            try:
                after = await sandbox.run("assert kept == 'kept'")
                assert after.outcome == "ok" or attack.lost, (after, shown)
            except SandboxDied:
                assert attack.lost
    record_property("outcome", outcome)
    assert len(shown) < 3 * SHOWN_CHARS + 1000
    assert "ALLOWED" not in shown
    assert SECRET not in shown
    assert outcome != "lost" or "Traceback" not in shown
    assert attack.outcomes or re.search(attack.sees, shown), shown  # only the loss was expected
    check_files(out)
    assert time.monotonic() - began < MOST_SECONDS
