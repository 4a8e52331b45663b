"""The process that runs the model's code: serves one command at a time, and forks a snapshot before each cell."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from typing import NoReturn, cast

from rlm.protocol.messages import Execute, Load, Loaded, Message, ProtocolError, Result, Start, TypeName, pack

from . import processes, stdlib, streams, values
from .calls import Calls
from .link import Link, close_all, fd_bundle, read_value
from .repl import Repl

SNAPSHOT = b"\xc1snapshot"  # no msgpack value starts with 0xc1, so this cannot be confused with a message
THREAD_STACK_BYTES = 1 << 20  # the default of 8 MiB would exhaust the address space with 50 threads
STANDARD_STREAMS = (0, 1, 2)


class Worker:
    """Serves the supervisor's commands until the link ends."""

    def __init__(self, link: Link, start: Start, *, stdout: int, stderr: int) -> None:
        self._link = link
        self._start = start
        self._streams = (os.open(os.devnull, os.O_RDONLY), stdout, stderr)
        self._calls = Calls(link, start)
        self._repl = Repl(self._calls, start)
        self._limits = processes.WorkerLimits(start.worker_memory_bytes)
        processes.prefer_for_oom(processes.OOM_CELL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        streams.follow_threads()
        stdlib.install()
        threading.stack_size(THREAD_STACK_BYTES)
        gc.freeze()  # a collection that touches these permanent objects would copy their pages after every fork

    def serve(self) -> NoReturn:
        """Handle commands forever; an activated snapshot continues this loop."""
        pid = os.getpid()
        while True:
            # The last cell may have forked this process, which must stay silent, or changed the standard streams.
            if os.getpid() != pid:
                os._exit(0)
            for descriptor, number in zip(self._streams, STANDARD_STREAMS, strict=True):
                os.dup2(descriptor, number)
            try:
                command, descriptors = self._calls.next_command()
            except (EOFError, OSError):
                os._exit(0)
            try:
                match command:
                    case Load():
                        self._load(command, descriptors)
                    case Execute():
                        code = read_value(command.code, descriptors).decode("utf-8", "surrogatepass")
                        if self._fork_snapshot():
                            pid = os.getpid()
                            continue
                        self._execute(command.cell, code)
            finally:
                close_all(descriptors)

    def _load(self, load: Load, descriptors: list[int]) -> None:
        kind: TypeName = ""
        size, error = 0, ""
        try:
            value = values.decode(load.kind, load.value, descriptors)
            kind, size = cast("TypeName", type(value).__name__), len(value)
            if load.kind == "tools":
                self._repl.bind_tools(value)
            else:
                self._repl.namespace[load.name] = value
        except MemoryError:
            error = "it does not fit into the sandbox's memory; raise SandboxConfig(memory_bytes=...)"
        except (ValueError, TypeError, ProtocolError) as problem:
            error = str(problem)
        self._link.send(Loaded(name=load.name, ok=not error, type=kind, size=size, error=error))

    def _fork_snapshot(self) -> bool:
        """Fork a sleeping copy of this process that keeps the state. Returns true in the copy, once a command wakes it.

        If memory cannot hold two copies, or the process limit is reached, the cell runs without a snapshot.
        """
        processes.reap()  # earlier snapshots, and processes of cells that the supervisor killed; does not block
        if 2 * processes.resident_bytes() > self._start.worker_memory_bytes:
            self._link.send_bytes(SNAPSHOT)
            return False
        ours, theirs = Link.pair()
        try:
            pid = os.fork()
        except OSError:  # the process limit is reached, or memory for page tables is missing
            ours.close()
            theirs.close()
            self._link.send_bytes(SNAPSHOT)
            return False
        if pid == 0:
            self._link.close()
            theirs.close()
            self._link = ours
            self._calls.reset(ours)
            processes.prefer_for_oom(processes.OOM_SNAPSHOT)
            return True
        ours.close()
        self._link.send_bytes(SNAPSHOT + pid.to_bytes(4, "big"), [theirs.fileno()])
        theirs.close()
        return False

    def _execute(self, cell: int, code: str) -> None:
        pid = os.getpid()
        self._limits.impose()
        end = self._repl.run(code, f"<cell {cell}>")
        self._limits.lift()
        if os.getpid() != pid:  # a child that the cell forked returned from the cell too
            os._exit(0)
        with fd_bundle() as bundle:
            answer = None if end.answer is None else bundle.add(end.answer)
            result = Result(
                cell=cell,
                outcome="error" if end.error else "ok",
                error=end.error,
                answer=answer,
                stdout_bytes=0,
                stderr_bytes=0,
                snapshot=True,
                seconds=0.0,
            )
            self._link.send(result, bundle.descriptors)


def exec_worker(link: Link, start: Start, *, stdout: int, stderr: int) -> NoReturn:
    """Become a worker in a new interpreter, whose memory holds nothing from the supervisor."""
    descriptors = [link.fileno(), stdout, stderr]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    options = ["--worker", ",".join(map(str, descriptors)), "--start", pack(start).hex()]
    os.execv(sys.executable, [sys.executable, "-P", "-s", "-S", sys.argv[0], *options])  # noqa: S606 - no shell wanted


def worker_main(descriptors: str, start: Message) -> NoReturn:
    """Entry point of the interpreter that `exec_worker` starts."""
    link, stdout, stderr = map(int, descriptors.split(","))
    for descriptor in (link, stdout, stderr):
        os.set_inheritable(descriptor, False)
    os.dup2(stderr, 2)
    assert isinstance(start, Start)
    Worker(Link.adopt(link), start, stdout=stdout, stderr=stderr).serve()
