"""Which process a container belongs to, written on its labels, and whether that process is gone.

A process is known by its number, its start time, its PID namespace and the boot of the machine: a number alone is used
again. Where one of these cannot be read (not Linux), nothing is ever taken for gone: a sandbox ends by itself when its
orchestrator does, and after its lifetime.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

PREFIX: Final = "rlm.owner."
PLACE: Final = ("boot", "pidns", "uid")  # the same for all processes of one user, as far as their numbers mean the same


def owner_labels() -> dict[str, str]:
    """The labels of this process."""
    facts = {**_place(), "pid": str(os.getpid()), "start": _start_time(os.getpid()) or ""}
    return {PREFIX + name: value for name, value in facts.items()}


def is_orphan(labels: Mapping[str, str]) -> bool:
    """Whether the process that these labels name has been of this user on this machine, and is gone for certain."""
    facts = {name.removeprefix(PREFIX): value for name, value in labels.items() if name.startswith(PREFIX)}
    here = _place()
    if not here.keys() >= set(PLACE) or not facts.get("start") or not facts.get("pid", "").isdigit():
        return False
    if any(facts.get(name) != here[name] for name in PLACE):
        return False  # another user's, another container's, another machine's on a shared engine
    return _start_time(int(facts["pid"])) != facts["start"]


@cache
def _place() -> dict[str, str]:
    try:
        return {
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "pidns": os.readlink("/proc/self/ns/pid"),
            "uid": str(os.getuid()),
        }
    except (OSError, AttributeError):
        return {}


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since the boot (proc_pid_stat(5), field 22); None if there is none such."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
