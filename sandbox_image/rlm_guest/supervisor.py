"""PID 1 of a sandbox: owns the channel, runs the worker, and puts its snapshot in its place when it goes wrong.

    python -m rlm_guest.supervisor --digest HEX --lifetime SECONDS [--worker-uid UID] [--unix PATH]

Whatever comes from the worker is hostile, as the model's code can speak on the worker's line. All that it can bring about
on the channel is queries while a cell runs and one result a cell, under numbers that are set here.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from rlm.protocol.messages import (
    VERSION,
    Execute,
    Get,
    ListFiles,
    Load,
    Loaded,
    Message,
    Outcome,
    Output,
    Payload,
    ProtocolError,
    Put,
    Query,
    Ready,
    Reply,
    Reset,
    Result,
    Served,
    Start,
    ToolCall,
    pack,
    unpack,
)

from . import files, processes
from . import values as encodings
from .cell import Cell
from .channel import Channel
from .link import Link, close_all
from .output import Capture, pieces
from .worker import SNAPSHOT, Worker

NO_CELL = "This call was not made: no cell is running."
NOBODY = "This sandbox has no models to call."
TOO_MANY = "This call was not made: too many calls wait for an answer."
CELL_ENDED = "The cell ended before this call was answered."
MOST_PIDS = 1 << 22  # Linux has no more (proc(5), pid_max)
LIFETIME_CODE = 124  # as timeout(1) has it
STATUS_SECONDS = 0.2  # between the end of a process's line and the news of its death


class SandboxLost(Exception):
    """There is no worker left and no snapshot to take its place: the host has to make a new sandbox."""


class Supervisor:
    """Serves one channel until the host closes it."""

    def __init__(self, channel: Channel, start: Start, worker_uid: int | None) -> None:
        self._channel = channel
        self._start = start
        self._worker_uid = worker_uid
        self._cell: Cell | None = None
        self._last_was_killed = False
        self._snapshot: tuple[int, Link] | None = None
        self._calls = 0
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._stdout = Capture(keep=start.max_output_bytes)
        self._stderr = Capture(keep=start.max_output_bytes)
        self._selector = selectors.DefaultSelector()
        self._link, theirs = Link.pair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                for end in (self._link, channel, self._selector):
                    end.close()
                close_all([self._stdout.reader, self._stderr.reader])
                os.dup2(self._stderr.writer, 2)
                self._drop_rights()
                Worker(theirs, start, stdout=self._stdout.writer, stderr=self._stderr.writer).serve()
            finally:
                os._exit(70)  # whatever happens, this process must never go on as a second supervisor
        theirs.close()
        processes.be_unreadable()
        processes.adopt_orphans()
        self._watch_children()
        self._watch_worker()
        self._selector.register(channel.reader, selectors.EVENT_READ, self._hear_host)
        self._watch_output()

    def _watch_output(self) -> None:
        register = self._selector.register
        register(self._stdout.reader, selectors.EVENT_READ, lambda: self._pass_on(1, self._stdout.read()))
        register(self._stderr.reader, selectors.EVENT_READ, lambda: self._pass_on(2, self._stderr.read()))

    def _drop_rights(self) -> None:
        if self._worker_uid is not None:
            processes.become(self._worker_uid)

    def serve(self, commands: list[Message]) -> None:
        """Do what the host says; `commands` came together with its greeting.

        Raises:
            EOFError: the host is gone.
            SandboxLost: nothing is left to serve with.
        """
        self._obey(commands)
        while True:
            wait = self._cell.clock.until_look if self._cell else None
            for key, _ in self._selector.select(wait):
                handle: Callable[[], None] = key.data
                handle()
            if self._cell and self._cell.clock.is_up():
                self._roll_back(
                    "timeout", f"The cell was stopped: it used up its {self._cell.clock.seconds:g} seconds."
                )

    # The host

    def _hear_host(self) -> None:
        self._obey(self._channel.receive())

    def _obey(self, commands: list[Message]) -> None:
        for message in commands:
            match message:
                case Load():
                    value, descriptors = self._channel.take_value(message.value)
                    self._to_worker(replace(message, value=value), descriptors)
                case Execute():
                    self._cell = Cell(message)
                    self._stdout.begin()
                    self._stderr.begin()
                    code, descriptors = self._channel.take_value(message.code)
                    self._to_worker(replace(message, code=code), descriptors)
                case Reply():
                    theirs = self._cell.answered(message.call) if self._cell else None
                    value, descriptors = self._channel.take_value(message.text)
                    if theirs is None:  # its cell has ended meanwhile
                        close_all(descriptors)
                    else:
                        self._to_worker(replace(message, call=theirs, text=value), descriptors)
                case Put() | Get() | ListFiles() | Reset():
                    self._serve(message)

    def _serve(self, wish: Put | Get | ListFiles | Reset) -> None:
        """Between cells; what cannot be is told, as the model's code may have seen to that."""
        value: Payload | None = None
        try:
            match wish:
                case Put():
                    with self._channel.taken(wish.value) as content:
                        files.write(wish.path, content)
                case Get():
                    value = self._channel.send_pieces(files.read(wish.path, wish.max_bytes))
                case ListFiles():
                    value = self._channel.send_pieces(pieces(encodings.packed_for_host(files.listing(wish.max_files))))
                case Reset():
                    self._begin_anew()
        except OSError as error:
            self._channel.send(Served(ok=False, error=error.strerror or str(error), value=None))
        except ValueError as error:
            self._channel.send(Served(ok=False, error=str(error), value=None))
        else:
            self._channel.send(Served(ok=True, error="", value=value))

    def _begin_anew(self) -> None:
        """Nothing of the model's code stays: no process, no file, no memory or setting that a new worker could find."""
        processes.kill_others(set())
        self._selector.unregister(self._link)
        self._link.close()
        self._drop_unsent()
        try:
            files.empty_scratch()
        except OSError as error:
            raise SandboxLost(f"what it had written could not be removed: {error}") from error
        for capture in (self._stdout, self._stderr):  # the flags of a pipe outlive who set them
            self._selector.unregister(capture.reader)
            close_all([capture.reader, capture.writer])
        self._stdout = Capture(keep=self._start.max_output_bytes)
        self._stderr = Capture(keep=self._start.max_output_bytes)
        self._watch_output()
        self._link, theirs = Link.pair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._drop_rights()
                run_worker_afresh(theirs, self._start, stdout=self._stdout.writer, stderr=self._stderr.writer)
            finally:
                os._exit(70)
        theirs.close()
        self._last_was_killed = False
        self._watch_worker()

    # The worker

    def _watch_worker(self) -> None:
        self._link.never_wait()
        self._selector.register(self._link, selectors.EVENT_READ, self._talk)

    def _to_worker(self, message: Message, descriptors: list[int]) -> None:
        self._unsent.append((pack(message), descriptors))
        self._talk_to()

    def _talk_to(self) -> None:
        """Send what the worker takes; a worker that does not listen must not stop this process."""
        try:
            while self._unsent:
                data, descriptors = self._unsent[0]
                self._link.send_bytes(data, descriptors)
                self._unsent.popleft()
                close_all(descriptors)
            events = selectors.EVENT_READ
        except BlockingIOError:
            events = selectors.EVENT_READ | selectors.EVENT_WRITE
        except OSError:  # it is gone: its line says so to the reader
            self._drop_unsent()
            events = selectors.EVENT_READ
        self._selector.modify(self._link, events, self._talk)

    def _drop_unsent(self) -> None:
        while self._unsent:
            close_all(self._unsent.popleft()[1])

    def _talk(self) -> None:
        if self._unsent:
            self._talk_to()
        try:
            data, descriptors = self._link.receive_bytes()
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        try:
            if not data:
                self._worker_left()
            elif data.startswith(SNAPSHOT) and self._cell and self._cell.snapshot_expected:
                self._keep_snapshot(data, descriptors)
            else:
                self._hear_worker(unpack(data), descriptors)
        except ProtocolError as error:
            self._roll_back("died", f"The cell broke the line to its supervisor: {error}.")
        finally:
            close_all(descriptors)

    def _keep_snapshot(self, data: bytes, descriptors: list[int]) -> None:
        assert self._cell is not None
        self._cell.snapshot_expected = False
        pid = int.from_bytes(data[len(SNAPSHOT) :], "big")
        if 1 < pid < MOST_PIDS and len(descriptors) == 1:
            self._snapshot = pid, Link.adopt(descriptors[0])
            self._cell.snapshot_taken = True

    def _hear_worker(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Query() | ToolCall():
                self._ask_host(message, descriptors)
            case Result(outcome="ok" | "error") if self._cell and message.cell == self._cell.number:
                final = message.answer if message.outcome == "ok" else None
                answer = final and self._channel.send_value(final, descriptors)
                self._end_cell(message.outcome, message.error, answer)
            case Loaded():
                self._channel.send(message)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not legal now")

    def _ask_host(self, asked: Query | ToolCall, descriptors: list[int]) -> None:
        cell = self._cell
        if len(self._unsent) > 2 * self._start.max_calls_in_flight:
            raise ProtocolError("it asks without reading the answers")
        if cell is None or not cell.may_call or len(cell.calls) >= self._start.max_calls_in_flight:
            self._refuse(asked.call, NO_CELL if cell is None else TOO_MANY if cell.may_call else NOBODY)
            return
        given = {name: getattr(asked, name, None) for name in ("prompt", "context", "arguments")}
        sent: dict[str, Any] = {
            name: self._channel.send_value(value, descriptors) for name, value in given.items() if value is not None
        }
        self._calls += 1
        self._channel.send(replace(asked, cell=cell.number, call=self._calls, **sent))
        cell.asked(self._calls, asked.call)

    def _refuse(self, call: int, why: str) -> None:
        self._to_worker(Reply(call=call, ok=False, text=why.encode()), [])

    # The end of a cell

    def _worker_left(self) -> None:
        """The worker's line has ended: with its process, or because its code closed it."""
        deadline = time.monotonic() + STATUS_SECONDS
        ended = processes.reap()
        while self._pid not in ended and time.monotonic() < deadline:
            time.sleep(0.001)
            ended |= processes.reap()
        if self._pid in ended:
            self._worker_ended(ended[self._pid])
        else:
            self._roll_back("died", "The cell did not end: it closed the line to its supervisor.")

    def _worker_ended(self, status: int) -> None:
        """A killed cell's files stay, in memory: where they leave too little, every cell would be killed from now on."""
        how = processes.how_it_ended(status)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed and self._last_was_killed:
            raise SandboxLost(f"two cells in succession did not end: {how}")
        self._roll_back("died", f"The cell did not end: {how}.")
        self._last_was_killed = killed

    def _roll_back(self, outcome: Outcome, error: str) -> None:
        """The snapshot takes the worker's place."""
        if self._cell is None or self._snapshot is None:
            raise SandboxLost(error)
        pid, link = self._snapshot
        self._snapshot = None
        processes.kill_others({pid})
        processes.reap()
        try:
            os.kill(pid, signal.SIGCONT)  # the cell may have stopped it, or killed it
        except ProcessLookupError:
            raise SandboxLost(f"{error} The copy that had to take its place is gone.") from None
        self._selector.unregister(self._link)
        self._link.close()
        self._drop_unsent()
        self._pid, self._link = pid, link
        self._watch_worker()
        self._end_cell(outcome, error, None)

    def _end_cell(self, outcome: Outcome, error: str, answer: Payload | None) -> None:
        assert self._cell is not None
        cell = self._cell
        seconds = cell.clock.used
        snapshot = {self._snapshot[0]} if self._snapshot else set()
        processes.kill_others({self._pid} | snapshot)
        for number, capture in ((1, self._stdout), (2, self._stderr)):
            head, tail = capture.finish()
            self._pass_on(number, head + tail)
        self._channel.send(
            Result(
                cell=cell.number,
                outcome=outcome,
                error=error,
                answer=answer,
                stdout_bytes=self._stdout.total,
                stderr_bytes=self._stderr.total,
                snapshot=cell.snapshot_taken,
                seconds=seconds,
            )
        )
        self._cell = None
        self._last_was_killed = False
        if self._snapshot:
            pid, link = self._snapshot
            self._snapshot = None
            with contextlib.suppress(ProcessLookupError):  # the cell may have killed it
                os.kill(pid, signal.SIGKILL)
            link.close()
        if outcome in ("ok", "error"):
            for theirs in cell.calls.values():
                self._refuse(theirs, CELL_ENDED)

    def _pass_on(self, stream: int, data: bytes) -> None:
        if self._cell:
            for piece in pieces(data):
                self._channel.send(Output(cell=self._cell.number, stream=stream, data=piece))

    # Children

    def _watch_children(self) -> None:
        """A worker may die while a child of its own still holds its line, so deaths are watched too."""
        awake, self._wakeup = socket.socketpair()
        for end in (awake, self._wakeup):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # with no handler Python would not write to it
        self._selector.register(awake, selectors.EVENT_READ, lambda: self._children_ended(awake))

    def _children_ended(self, awake: socket.socket) -> None:
        awake.recv(4096)
        ended = processes.reap()
        if self._pid in ended:
            self._worker_ended(ended[self._pid])


def end_after(seconds: float) -> None:
    """Let this process, and with it the container, end then, whatever it waits for. A worker does not inherit the timer."""
    over = time.monotonic() + seconds

    def end(number: int, frame: object) -> None:
        left = over - time.monotonic()
        if left > 0:  # a cell has sent the signal
            signal.setitimer(signal.ITIMER_REAL, left)
            return
        os.write(2, f"rlm guest: the sandbox's lifetime of {seconds:g} seconds is over\n".encode())
        os._exit(LIFETIME_CODE)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def run_worker_afresh(link: Link, start: Start, *, stdout: int, stderr: int) -> NoReturn:
    """Become a worker in a new interpreter, which holds nothing of what the supervisor has seen."""
    descriptors = [link.fileno(), stdout, stderr]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    options = ["--worker", ",".join(map(str, descriptors)), "--start", pack(start).hex()]
    os.execv(sys.executable, [sys.executable, "-P", "-s", "-S", sys.argv[0], *options])  # noqa: S606 - no shell is the point


def work(descriptors: str, start: Message) -> NoReturn:
    """The other end of `run_worker_afresh`."""
    link, stdout, stderr = map(int, descriptors.split(","))
    for descriptor in (link, stdout, stderr):
        os.set_inheritable(descriptor, False)
    os.dup2(stderr, 2)
    assert isinstance(start, Start)
    Worker(Link.adopt(link), start, stdout=stdout, stderr=stderr).serve()


def main() -> None:
    """Serve one host over the standard streams or a socket; ends when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a cell may send it; all others PID 1 does not even get
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    if "--worker" in options:
        work(options["--worker"], unpack(bytes.fromhex(options["--start"])))
    end_after(float(options["--lifetime"]))
    path = options.get("--unix")
    worker_uid = int(options["--worker-uid"]) if "--worker-uid" in options else None
    channel = Channel.over_standard_streams() if path is None else Channel.over_socket(path)
    channel.send(Ready(version=VERSION, digest=options["--digest"], python=sys.version.split()[0]))
    try:
        messages: list[Message] = []
        while not messages:
            messages = channel.receive()
        start, *commands = messages
        assert isinstance(start, Start)  # the connection lets nothing else pass
        Supervisor(channel, start, worker_uid).serve(commands)
    except EOFError:
        processes.kill_others(set())
    except (SandboxLost, BrokenPipeError) as error:
        processes.kill_others(set())
        raise SystemExit(f"rlm guest: {error}") from None


if __name__ == "__main__":
    main()
