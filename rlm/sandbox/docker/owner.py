"""Labels that name a container's owner process, and the check whether that process is gone.

A process is identified by its PID, start time, PID namespace and the boot of the machine, because the kernel reuses PIDs.
Where one of these is unreadable (not Linux), no container counts as an orphan. A sandbox ends anyway with its
orchestrator, or after its lifetime.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

PREFIX: Final = "rlm.owner."
SCOPE: Final = ("boot", "pidns", "uid")  # PIDs are comparable only between processes that share these


def owner_labels() -> dict[str, str]:
    """Labels that identify this process as the owner."""
    facts = {**_scope(), "pid": str(os.getpid()), "start": _start_time(os.getpid()) or ""}
    return {PREFIX + name: value for name, value in facts.items()}


def is_orphan(labels: Mapping[str, str]) -> bool:
    """Whether the owner was a process of this user on this machine, and is certainly gone."""
    facts = {name.removeprefix(PREFIX): value for name, value in labels.items() if name.startswith(PREFIX)}
    ours = _scope()
    if not ours.keys() >= set(SCOPE) or not facts.get("start") or not facts.get("pid", "").isdigit():
        return False
    if any(facts.get(name) != ours[name] for name in SCOPE):
        return False  # owned by another user, container or machine that shares the engine
    return _start_time(int(facts["pid"])) != facts["start"]


@cache
def _scope() -> dict[str, str]:
    try:
        return {
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "pidns": os.readlink("/proc/self/ns/pid"),
            "uid": str(os.getuid()),
        }
    except (OSError, AttributeError):
        return {}


def _start_time(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot (proc_pid_stat(5), field 22); None if it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
