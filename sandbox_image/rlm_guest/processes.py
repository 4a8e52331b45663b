"""What the guest asks of the kernel about processes: flags, limits, and the end of everything that a cell left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import time

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
ROUNDS = 2000  # of looking for processes that are not gone yet, a millisecond apart

# Higher is killed first when memory runs out (proc(5)): the running cell, then its snapshot, the supervisor last.
OOM_CELL = 1000
OOM_SNAPSHOT = 900

RESERVED_BYTES = 16 << 20
RESERVED_FILES = 32

_libc = ctypes.CDLL(None, use_errno=True)


def set_process_flag(option: int, value: int) -> None:
    """prctl(2). Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def be_unreadable() -> None:
    """No process of the same user may trace this one or open its memory and descriptors (proc(5), ptrace(2))."""
    set_process_flag(PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process (PID 1 has that anyway)."""
    set_process_flag(PR_SET_CHILD_SUBREAPER, 1)


def become(uid: int) -> None:
    """Run as this user from here on, with no capability and no way back."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def prefer_for_oom(score: int) -> None:
    # An engine may forbid the change; then the kernel chooses by size alone, and the run is rebuilt if it chooses badly.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))


class WorkerLimits:
    """What the model's code may use, and a little more for the worker's own work around it.

    An address space below the container's memory turns most exhaustion into MemoryError, which costs nothing. What a cell
    leaves allocated or open stays: without the rest that is kept here, the worker could not even report it.
    """

    def __init__(self, memory_bytes: int) -> None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self._hard = {resource.RLIMIT_AS: memory_bytes, resource.RLIMIT_NOFILE: files}
        self._soft = {
            resource.RLIMIT_AS: memory_bytes - RESERVED_BYTES,
            resource.RLIMIT_NOFILE: files - RESERVED_FILES,
        }
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.lift()

    def lift(self) -> None:
        """For the worker's own work."""
        for kind, hard in self._hard.items():
            resource.setrlimit(kind, (hard, hard))

    def impose(self) -> None:
        """For the model's code."""
        for kind, soft in self._soft.items():
            resource.setrlimit(kind, (soft, self._hard[kind]))


def resident_bytes() -> int:
    return int(_read("/proc/self/statm").split()[1]) * resource.getpagesize()


def _read(path: str) -> bytes:
    """A file of /proc: three system calls, as this is done at every cell."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def others(keep: set[int]) -> list[int]:
    """Running processes that are not to be kept: as PID 1 all of the container's, elsewhere only this one's descendants."""
    me = os.getpid()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if me == 1:
        return [pid for pid in pids if pid != 1 and pid not in keep and _parent(pid) is not None]
    parents = {pid: parent for pid in pids if (parent := _parent(pid)) is not None}
    return [pid for pid in _descendants(me, parents) if pid not in keep]


def _parent(pid: int) -> int | None:
    """The parent of a process, or None when it has ended (a zombie is only waiting for its parent to notice)."""
    try:
        state, parent = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == b"Z" else int(parent)


def _descendants(root: int, parents: dict[int, int]) -> set[int]:
    family: set[int] = set()
    more = {root}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - family
        family |= more
    return family


def kill_others(keep: set[int]) -> dict[int, int]:
    """End every process but this one and `keep`, however fast they multiply; returns what `reap` found meanwhile.

    A stopped process cannot fork, and kill(-1) as PID 1 stops all at once; so none escapes between two looks.
    """
    ended: dict[int, int] = {}
    left = others(keep)
    if not left:
        return ended
    for _ in range(ROUNDS):
        if os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGSTOP)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= reap()
        left = others(keep)
        if not left:
            break
        time.sleep(0.001)  # a killed process takes a moment to be gone
    for pid in keep:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return ended


def reap() -> dict[int, int]:
    """The children that have ended, with their wait status."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = status
    return ended


def how_it_ended(status: int) -> str:
    """A wait status in words."""
    if os.WIFEXITED(status):
        return f"the cell ended its own process with exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL:
        return "the cell's process was killed, most likely because it used more memory than the sandbox has"
    name = (
        signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    )  # real-time ones have none
    return f"the cell's process was killed by {name} ({signal.strsignal(number)})"
