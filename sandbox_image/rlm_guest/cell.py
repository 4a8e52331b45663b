"""The running cell as the supervisor knows it: its clock, and its calls that wait for an answer."""

from __future__ import annotations

import contextlib
import os
import resource
import time

from rlm.protocol.clock import Clock
from rlm.protocol.messages import Execute

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Cell:
    """One cell from its start to its result."""

    def __init__(self, execute: Execute) -> None:
        self.number = execute.cell
        self.may_call = execute.calls
        self.clock = Clock(execute.seconds, now=time.monotonic, processor=processor_seconds)
        self.calls: dict[int, int] = {}  # the number on the channel -> the worker's own
        self.snapshot_taken = False
        self.snapshot_expected = True

    def asked(self, ours: int, theirs: int) -> None:
        self.calls[ours] = theirs
        self.clock.asked()

    def answered(self, ours: int) -> int | None:
        theirs = self.calls.pop(ours, None)
        if theirs is not None:
            self.clock.answered()
        return theirs


def processor_seconds() -> float:
    """Processor time of all processes of the container but this one, those that have ended included.

    What is missing are processes that end unseen, because their parent wants to know nothing of them (SIGCHLD ignored).
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                ticks += _ticks(name)
    return ended.ru_utime + ended.ru_stime + ticks / TICKS_PER_SECOND


def _ticks(pid: str) -> int:
    """Of a process and its children that it has waited for: utime, stime, cutime and cstime of proc(5)."""
    descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return sum(map(int, os.read(descriptor, 4096).rpartition(b")")[2].split()[11:15]))
    finally:
        os.close(descriptor)
