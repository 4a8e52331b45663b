"""Process control for the guest: flags, limits, and killing everything that a cell left running."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import time

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
KILL_ROUNDS = 2000  # maximum number of checks for remaining processes, a millisecond apart
LIFETIME_EXIT_CODE = 124  # as timeout(1) reports it

# When memory runs out, the kernel kills higher scores first (proc(5)): the cell, then its snapshot, then the supervisor.
OOM_CELL = 1000
OOM_SNAPSHOT = 900

# Kept for the worker, which must still report a cell that used up everything else.
RESERVED_BYTES = 16 << 20
RESERVED_FILES = 32

_libc = ctypes.CDLL(None, use_errno=True)


def set_process_flag(option: int, value: int) -> None:
    """Set a flag of this process with prctl(2). Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def set_undumpable() -> None:
    """Keep processes of the same user from tracing this one or opening its memory and descriptors (proc(5), ptrace(2))."""
    set_process_flag(PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process, as they are of PID 1 anyway."""
    set_process_flag(PR_SET_CHILD_SUBREAPER, 1)


def switch_user(uid: int) -> None:
    """Switch to a user, permanently and without capabilities."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def prefer_for_oom(score: int) -> None:
    """Set the score of this process for the kernel's out-of-memory killer."""
    # An engine may forbid this. Then the kernel chooses by size, and the host replaces the sandbox if it chooses badly.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))


class WorkerLimits:
    """Resource limits of the model's code, and slightly higher ones for the worker itself.

    An address space below the container's memory turns most exhaustion into MemoryError, which loses no state. A cell's
    allocations and open files persist. Without a reserve, the worker could not even report them.
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
        """Apply the limits of the worker itself."""
        for kind, hard in self._hard.items():
            resource.setrlimit(kind, (hard, hard))

    def impose(self) -> None:
        """Apply the limits of the model's code."""
        for kind, soft in self._soft.items():
            resource.setrlimit(kind, (soft, self._hard[kind]))


def resident_bytes() -> int:
    return int(_read("/proc/self/statm").split()[1]) * resource.getpagesize()


def _read(path: str) -> bytes:
    """Read a file of /proc in three system calls, because this happens at every cell."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def other_processes(keep: set[int]) -> list[int]:
    """Running processes not in `keep`: as PID 1 all of the container, otherwise only descendants."""
    me = os.getpid()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if me == 1:
        return [pid for pid in pids if pid != 1 and pid not in keep and _parent(pid) is not None]
    parents = {pid: parent for pid in pids if (parent := _parent(pid)) is not None}
    return [pid for pid in _descendants(me, parents) if pid not in keep]


def _parent(pid: int) -> int | None:
    """The parent of a process, or None if it has ended (a zombie only waits for its parent)."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()  # from field 3 of proc(5)
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, threads = fields[0], int(fields[1]), int(fields[17])
    # A process is also shown as a zombie once its first thread has ended, while its other threads run.
    return None if state == b"Z" and threads <= 1 else parent


def _descendants(root: int, parents: dict[int, int]) -> set[int]:
    family: set[int] = set()
    more = {root}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - family
        family |= more
    return family


def kill_others(keep: set[int]) -> dict[int, int]:
    """Kill every process except this one and `keep`, however fast they fork. Returns the results of `reap`.

    A stopped process cannot fork, and kill(-1) from PID 1 stops all at once, so none escapes between two checks.
    """
    ended: dict[int, int] = {}
    remaining = other_processes(keep)
    if not remaining:
        return ended
    for _ in range(KILL_ROUNDS):
        if os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGSTOP)
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= reap()
        remaining = other_processes(keep)
        if not remaining:
            break
        time.sleep(0.001)  # a killed process takes a moment to disappear
    for pid in keep:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return ended


def reap() -> dict[int, int]:
    """Collect ended children, with their wait status. Does not block."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = status
    return ended


def exit_description(status: int) -> str:
    """Describe a wait status."""
    if os.WIFEXITED(status):
        return f"it ended its own process with exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL:
        return "its process was killed, most likely because it used more memory than the sandbox has"
    # Real-time signals have no name.
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"its process was killed by {name} ({signal.strsignal(number)})"


def schedule_exit(seconds: float) -> None:
    """End this process, and with it the container, after its lifetime. A worker does not inherit the timer."""
    deadline = time.monotonic() + seconds

    def end(number: int, frame: object) -> None:
        remaining = deadline - time.monotonic()
        if remaining > 0:  # a cell sent the signal
            signal.setitimer(signal.ITIMER_REAL, remaining)
            return
        os.write(2, f"rlm guest: the sandbox's lifetime of {seconds:g} seconds is over\n".encode())
        os._exit(LIFETIME_EXIT_CODE)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
