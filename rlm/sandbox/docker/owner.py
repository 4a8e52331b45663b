"""Labels that name a container's owner process, and the check whether that process is gone.

The kernel reuses PIDs. So a process is identified by its PID, its start time, its PID namespace and the machine's boot.
If one of these is unreadable (not Linux), no container counts as an orphan. A sandbox still ends with its
orchestrator, or after its lifetime.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

LABEL_PREFIX: Final = "rlm.owner."
PID_SCOPE: Final = ("boot", "pidns", "uid")  # PIDs are comparable only between processes that share these


def owner_labels() -> dict[str, str]:
    """Labels that identify this process as the owner."""
    facts = {**_scope(), "pid": str(os.getpid()), "start": _start_time(os.getpid()) or ""}
    return {LABEL_PREFIX + name: value for name, value in facts.items()}


def is_orphan(labels: Mapping[str, str]) -> bool:
    """Whether the owner was a process of this user on this machine, and is certainly gone."""
    facts = {name.removeprefix(LABEL_PREFIX): value for name, value in labels.items() if name.startswith(LABEL_PREFIX)}
    ours = _scope()
    if not ours.keys() >= set(PID_SCOPE) or not facts.get("start") or not facts.get("pid", "").isdigit():
        return False
    if any(facts.get(name) != ours[name] for name in PID_SCOPE):
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
