"""PID 1 of a sandbox: owns the channel, runs the worker, and rolls back to its snapshot when a cell goes wrong.

    python -m rlm_guest.supervisor --digest HEX --lifetime SECONDS [--worker-uid UID] [--unix PATH]

All input from the worker is untrusted, because the model's code can write to the worker's link. Such input can only cause
calls while a cell runs and one result per cell, under numbers that the supervisor assigns.
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
from typing import Any

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
    Response,
    Result,
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
from .worker import SNAPSHOT, Worker, exec_worker, worker_main

NO_CELL = "This call was not made: no cell is running."
NO_MODELS = "This sandbox has no models to call."
TOO_MANY_CALLS = "This call was not made: too many calls are pending."
CELL_ENDED = "The cell ended before this call was answered."
MAX_PID = 1 << 22  # Linux's limit (proc(5), pid_max)
EXIT_STATUS_SECONDS = 0.2  # the kernel reports a death a moment after the end of the process's link


class SandboxLost(Exception):
    """Neither a worker nor a snapshot is left: the host must create a new sandbox."""


class Supervisor:
    """Serves one channel until the host closes it."""

    def __init__(self, channel: Channel, start: Start, worker_uid: int | None) -> None:
        self._channel = channel
        self._start = start
        self._worker_uid = worker_uid
        self._cell: Cell | None = None
        self._last_was_killed = False
        self._snapshot: tuple[int, Link] | None = None
        self._last_call = 0
        self._outbox: deque[tuple[bytes, list[int]]] = deque()  # messages to the worker, with their descriptors
        self._stdout = Capture(keep=start.max_output_bytes)
        self._stderr = Capture(keep=start.max_output_bytes)
        self._selector = selectors.DefaultSelector()
        self._link, worker_link = Link.pair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                for end in (self._link, channel, self._selector):
                    end.close()
                close_all([self._stdout.reader, self._stderr.reader])
                os.dup2(self._stderr.writer, 2)
                self._drop_rights()
                Worker(worker_link, start, stdout=self._stdout.writer, stderr=self._stderr.writer).serve()
            finally:
                os._exit(70)  # this process must never continue as a second supervisor
        worker_link.close()
        processes.set_undumpable()
        processes.adopt_orphans()
        self._watch_children()
        self._watch_worker()
        self._selector.register(channel.reader, selectors.EVENT_READ, self._on_host_io)
        self._watch_output()

    def _watch_output(self) -> None:
        register = self._selector.register
        register(self._stdout.reader, selectors.EVENT_READ, lambda: self._forward_output(1, self._stdout.read()))
        register(self._stderr.reader, selectors.EVENT_READ, lambda: self._forward_output(2, self._stderr.read()))

    def _drop_rights(self) -> None:
        if self._worker_uid is not None:
            processes.switch_user(self._worker_uid)

    def serve(self, commands: list[Message]) -> None:
        """Handle events until the host is gone. `commands` arrived together with the host's first message.

        Raises:
            EOFError: The host is gone.
            SandboxLost: Neither a worker nor a snapshot is left.
        """
        self._handle_commands(commands)
        while True:
            timeout = self._cell.clock.until_check if self._cell else None
            for key, _ in self._selector.select(timeout):
                handle: Callable[[], None] = key.data
                handle()
            if self._cell and self._cell.clock.expired():
                seconds = self._cell.clock.seconds
                self._roll_back("timeout", f"Timed out: the cell ran longer than {seconds:g} seconds and was stopped.")

    # The host

    def _on_host_io(self) -> None:
        self._handle_commands(self._channel.receive())

    def _handle_commands(self, commands: list[Message]) -> None:
        for message in commands:
            match message:
                case Load():
                    value, descriptors = self._channel.take_value(message.value)
                    self._send_to_worker(replace(message, value=value), descriptors)
                case Execute():
                    self._cell = Cell(message)
                    self._stdout.reset()
                    self._stderr.reset()
                    code, descriptors = self._channel.take_value(message.code)
                    self._send_to_worker(replace(message, code=code), descriptors)
                case Reply():
                    worker_call = self._cell.call_answered(message.call) if self._cell else None
                    value, descriptors = self._channel.take_value(message.text)
                    if worker_call is None:  # its cell has ended
                        close_all(descriptors)
                    else:
                        self._send_to_worker(replace(message, call=worker_call, text=value), descriptors)
                case Put() | Get() | ListFiles() | Reset():
                    self._serve_request(message)

    def _serve_request(self, request: Put | Get | ListFiles | Reset) -> None:
        """Serve a request between cells. Failures go to the host, as the model's code may have caused them."""
        value: Payload | None = None
        try:
            match request:
                case Put():
                    with self._channel.open_value(request.value) as content:
                        files.write(request.path, content)
                case Get():
                    value = self._channel.send_pieces(files.read(request.path, request.max_bytes))
                case ListFiles():
                    listing = encodings.packed_for_host(files.listing(request.max_files))
                    value = self._channel.send_pieces(pieces(listing))
                case Reset():
                    self._reset()
        except OSError as error:
            self._channel.send(Response(ok=False, error=error.strerror or str(error), value=None))
        except ValueError as error:
            self._channel.send(Response(ok=False, error=str(error), value=None))
        else:
            self._channel.send(Response(ok=True, error="", value=value))

    def _reset(self) -> None:
        """Start a new worker. It finds no process, file, memory or setting of the model's code."""
        processes.kill_others(set())
        self._selector.unregister(self._link)
        self._link.close()
        self._drop_outbox()
        try:
            files.empty_scratch()
        except OSError as error:
            raise SandboxLost(f"could not remove the files of earlier cells: {error}") from error
        for capture in (self._stdout, self._stderr):  # the code may have changed the flags of these pipes
            self._selector.unregister(capture.reader)
            close_all([capture.reader, capture.writer])
        self._stdout = Capture(keep=self._start.max_output_bytes)
        self._stderr = Capture(keep=self._start.max_output_bytes)
        self._watch_output()
        self._link, worker_link = Link.pair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._drop_rights()
                exec_worker(worker_link, self._start, stdout=self._stdout.writer, stderr=self._stderr.writer)
            finally:
                os._exit(70)
        worker_link.close()
        self._last_was_killed = False
        self._watch_worker()

    # The worker

    def _watch_worker(self) -> None:
        self._link.set_nonblocking()
        self._selector.register(self._link, selectors.EVENT_READ, self._on_worker_io)

    def _send_to_worker(self, message: Message, descriptors: list[int]) -> None:
        self._outbox.append((pack(message), descriptors))
        self._flush()

    def _flush(self) -> None:
        """Send what the worker accepts now. A worker that does not read must not block this process."""
        try:
            while self._outbox:
                data, descriptors = self._outbox[0]
                self._link.send_bytes(data, descriptors)
                self._outbox.popleft()
                close_all(descriptors)
            events = selectors.EVENT_READ
        except BlockingIOError:
            events = selectors.EVENT_READ | selectors.EVENT_WRITE
        except OSError:  # the worker is gone; reading its link will report that
            self._drop_outbox()
            events = selectors.EVENT_READ
        self._selector.modify(self._link, events, self._on_worker_io)

    def _drop_outbox(self) -> None:
        while self._outbox:
            close_all(self._outbox.popleft()[1])

    def _on_worker_io(self) -> None:
        if self._outbox:
            self._flush()
        try:
            data, descriptors = self._link.receive_bytes()
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        try:
            if not data:
                self._on_worker_eof()
            elif data.startswith(SNAPSHOT) and self._cell and self._cell.snapshot_expected:
                self._keep_snapshot(data, descriptors)
            else:
                self._on_worker_message(unpack(data), descriptors)
        except ProtocolError as error:
            self._roll_back("died", f"The cell corrupted its link to the supervisor: {error}.")
        finally:
            close_all(descriptors)

    def _keep_snapshot(self, data: bytes, descriptors: list[int]) -> None:
        assert self._cell is not None
        self._cell.snapshot_expected = False
        pid = int.from_bytes(data[len(SNAPSHOT) :], "big")
        if 1 < pid < MAX_PID and len(descriptors) == 1:
            self._snapshot = pid, Link.adopt(descriptors[0])
            self._cell.snapshot_taken = True

    def _on_worker_message(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Query() | ToolCall():
                self._forward_call(message, descriptors)
            case Result(outcome="ok" | "error") if self._cell and message.cell == self._cell.number:
                final = message.answer if message.outcome == "ok" else None
                answer = final and self._channel.send_value(final, descriptors)
                self._end_cell(message.outcome, message.error, answer)
            case Loaded():
                self._channel.send(message)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not legal now")

    def _forward_call(self, message: Query | ToolCall, descriptors: list[int]) -> None:
        cell = self._cell
        if len(self._outbox) > 2 * self._start.max_calls_in_flight:
            raise ProtocolError("it makes calls without reading the answers")
        if cell is None or not cell.may_call or len(cell.calls) >= self._start.max_calls_in_flight:
            self._reject_call(message.call, NO_CELL if cell is None else TOO_MANY_CALLS if cell.may_call else NO_MODELS)
            return
        values = {name: getattr(message, name, None) for name in ("prompt", "context", "arguments")}
        sent: dict[str, Any] = {
            name: self._channel.send_value(value, descriptors) for name, value in values.items() if value is not None
        }
        self._last_call += 1
        self._channel.send(replace(message, cell=cell.number, call=self._last_call, **sent))
        cell.call_started(self._last_call, message.call)

    def _reject_call(self, worker_call: int, reason: str) -> None:
        self._send_to_worker(Reply(call=worker_call, ok=False, text=reason.encode()), [])

    # The end of a cell

    def _on_worker_eof(self) -> None:
        """The worker's link has ended: its process ended, or its code closed the link."""
        deadline = time.monotonic() + EXIT_STATUS_SECONDS
        ended = processes.reap()
        while self._pid not in ended and time.monotonic() < deadline:
            time.sleep(0.001)
            ended |= processes.reap()
        if self._pid in ended:
            self._on_worker_exit(ended[self._pid])
        else:
            self._roll_back("died", "The cell died: it closed its link to the supervisor.")

    def _on_worker_exit(self, status: int) -> None:
        """Roll back, unless the previous cell was killed too.

        The files of a killed cell stay in memory. If they leave too little memory, every further cell would be killed.
        """
        reason = processes.exit_description(status)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed and self._last_was_killed:
            raise SandboxLost(f"two cells in succession died: {reason}")
        self._roll_back("died", f"The cell died: {reason}.")
        self._last_was_killed = killed

    def _roll_back(self, outcome: Outcome, error: str) -> None:
        """Replace the worker by its snapshot, and end the cell."""
        if self._cell is None or self._snapshot is None:
            raise SandboxLost(error)
        pid, link = self._snapshot
        self._snapshot = None
        processes.kill_others({pid})
        processes.reap()
        try:
            os.kill(pid, signal.SIGCONT)  # the cell may have stopped it, or killed it
        except ProcessLookupError:
            raise SandboxLost(f"{error} Its snapshot is gone.") from None
        self._selector.unregister(self._link)
        self._link.close()
        self._drop_outbox()
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
            self._forward_output(number, head + tail)
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
            for worker_call in cell.calls.values():
                self._reject_call(worker_call, CELL_ENDED)

    def _forward_output(self, stream: int, data: bytes) -> None:
        if self._cell:
            for piece in pieces(data):
                self._channel.send(Output(cell=self._cell.number, stream=stream, data=piece))

    # Children

    def _watch_children(self) -> None:
        """Watch for deaths too: a worker can die while its child keeps the link open."""
        wakeup, self._wakeup_writer = socket.socketpair()
        for end in (wakeup, self._wakeup_writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # without a handler Python writes nothing
        self._selector.register(wakeup, selectors.EVENT_READ, lambda: self._on_children_exit(wakeup))

    def _on_children_exit(self, wakeup: socket.socket) -> None:
        wakeup.recv(4096)
        ended = processes.reap()
        if self._pid in ended:
            self._on_worker_exit(ended[self._pid])


def main() -> None:
    """Serve one host over the standard streams or a socket, until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a cell may send it; the kernel withholds all others from PID 1
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    if "--worker" in options:
        worker_main(options["--worker"], unpack(bytes.fromhex(options["--start"])))
    processes.schedule_exit(float(options["--lifetime"]))
    path = options.get("--unix")
    worker_uid = int(options["--worker-uid"]) if "--worker-uid" in options else None
    channel = Channel.over_standard_streams() if path is None else Channel.over_socket(path)
    channel.send(Ready(version=VERSION, digest=options["--digest"], python=sys.version.split()[0]))
    try:
        messages: list[Message] = []
        while not messages:
            messages = channel.receive()
        start, *commands = messages
        assert isinstance(start, Start)  # the connection accepts nothing else
        Supervisor(channel, start, worker_uid).serve(commands)
    except EOFError:
        processes.kill_others(set())
    except (SandboxLost, BrokenPipeError) as error:
        processes.kill_others(set())
        raise SystemExit(f"rlm guest: {error}") from None


if __name__ == "__main__":
    main()
