"""The supervisor's state of the running cell: its clock and its pending calls."""

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
        self.calls: dict[int, int] = {}  # pending calls: number on the channel -> number in the worker
        self.snapshot_taken = False
        self.snapshot_expected = True

    def call_started(self, call: int, worker_call: int) -> None:
        self.calls[call] = worker_call
        self.clock.call_started()

    def call_answered(self, call: int) -> int | None:
        worker_call = self.calls.pop(call, None)
        if worker_call is not None:
            self.clock.call_answered()
        return worker_call


def processor_seconds() -> float:
    """Processor time of all other processes of the container, including ended ones.

    It misses processes whose parent ignores SIGCHLD: the kernel discards their times.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                ticks += _ticks(name)
    return ended.ru_utime + ended.ru_stime + ticks / TICKS_PER_SECOND


def _ticks(pid: str) -> int:
    """Ticks of a process and its reaped children: utime, stime, cutime and cstime of proc(5)."""
    descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return sum(map(int, os.read(descriptor, 4096).rpartition(b")")[2].split()[11:15]))
    finally:
        os.close(descriptor)
