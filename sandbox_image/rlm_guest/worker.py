"""The process that runs the model's code: takes one command after the other, forks its own snapshot before each cell."""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import NoReturn, cast

from rlm.protocol.messages import Execute, Load, Loaded, ProtocolError, Result, Start, TypeName

from . import processes, seeds, values
from .calls import Calls
from .link import Link, close_all, parcel, read_value
from .repl import Repl

SNAPSHOT = b"\xc1snapshot"  # 0xc1 begins no msgpack value, so no message can be taken for it
THREAD_STACK_BYTES = 1 << 20  # the default of 8 MiB each would use up the address space with 50 threads
OWN_STREAMS = (0, 1, 2)


class Worker:
    """Serves the supervisor's commands until its line ends."""

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
        seeds.install()
        threading.stack_size(THREAD_STACK_BYTES)
        gc.freeze()  # what is here stays; a collection that touched it would copy its pages after every fork

    def serve(self) -> NoReturn:
        """Never returns: in a snapshot that was woken, this very loop goes on."""
        pid = os.getpid()
        while True:
            # The code before may have closed or redirected them, or made this a child that must say nothing.
            if os.getpid() != pid:
                os._exit(0)
            for descriptor, number in zip(self._streams, OWN_STREAMS, strict=True):
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
            error = "it does not fit into the sandbox's memory; set SandboxConfig(memory_bytes=...) higher"
        except (ValueError, TypeError, ProtocolError) as problem:
            error = str(problem)
        self._link.send(Loaded(name=load.name, ok=not error, type=kind, size=size, error=error))

    def _fork_snapshot(self) -> bool:
        """Leave a copy of this process asleep, holding the state; true in the copy, when it is woken by a command.

        Where two copies would not fit into the memory, or no process is left, the cell runs without.
        """
        processes.reap()  # snapshots, and what the supervisor killed of earlier cells; without waiting for the latest
        self._repl.flush()
        if 2 * processes.resident_bytes() > self._start.worker_memory_bytes:
            self._link.send_bytes(SNAPSHOT)
            return False
        ours, theirs = Link.pair()
        try:
            pid = os.fork()
        except OSError:  # no process is left, or no memory for its tables
            ours.close()
            theirs.close()
            self._link.send_bytes(SNAPSHOT)
            return False
        if pid == 0:
            self._link.close()
            theirs.close()
            self._link = ours
            self._calls.restart(ours)
            processes.prefer_for_oom(processes.OOM_SNAPSHOT)
            return True
        ours.close()
        self._link.send_bytes(SNAPSHOT + pid.to_bytes(4, "big"), [theirs.fileno()])
        theirs.close()
        return False

    def _execute(self, cell: int, code: str) -> None:
        pid = os.getpid()
        self._limits.impose()
        ended = self._repl.run(code, f"<cell {cell}>")
        self._limits.lift()
        if os.getpid() != pid:  # a child that the cell forked came out of the cell too
            os._exit(0)
        with parcel() as packed:
            answer = None if ended.answer is None else packed.add(ended.answer)
            result = Result(
                cell=cell,
                outcome="error" if ended.error else "ok",
                error=ended.error,
                answer=answer,
                stdout_bytes=0,
                stderr_bytes=0,
                snapshot=True,
                seconds=0.0,
            )
            self._link.send(result, packed.descriptors)
