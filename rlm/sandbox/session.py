"""One conversation with a guest, over any byte stream.

There is no task in the background: whoever waits for something reads. Everything that the guest sends is hostile; what is
not legal, too much, or too late is `SandboxMisbehaved`, and the session is over.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, NoReturn, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from rlm.config import SandboxConfig
from rlm.errors import ConfigError, SandboxDied, SandboxError, SandboxMisbehaved, SandboxStartError
from rlm.protocol.connection import Connection, Role, Streams
from rlm.protocol.messages import (
    INLINE_BYTES,
    KIB,
    MIB,
    VERSION,
    Blob,
    Chunk,
    Execute,
    Load,
    Loaded,
    Message,
    Output,
    Payload,
    ProtocolError,
    Query,
    Ready,
    Reply,
    Result,
    Start,
)
from rlm.types import CellResult

from .base import Answer, LoadedValue, OnOutput, QueryReply, SandboxQuery
from .values import Piece, Value, opaque

RECEIVE_BYTES: Final = MIB
WRITE_SECONDS: Final = 15.0  # for a guest to take one frame: it reads all the time, unless it is not what we started
LOAD_SECONDS: Final = 60.0  # to build a value from bytes that have arrived ...
LOAD_SECONDS_PER_BYTE: Final = 0.2 / MIB  # ... a hundred times what was measured
GRACE_SECONDS: Final = 10.0  # beyond a cell's own time, which the guest keeps, until the host gives up on it
MAX_STREAMS: Final = 16  # values sent ahead at once; an honest guest sends one after the other
OUTPUT_SLACK: Final = 2 * KIB  # of what a stream may send beyond its bound: halves are rounded

M = TypeVar("M", bound=Message)


class Stream(Protocol):
    """What a session runs over; any `anyio.abc.ByteStream` is one."""

    async def receive(self, max_bytes: int = ...) -> bytes:
        """The next bytes. Raises anyio.EndOfStream at the end, anyio.BrokenResourceError when it broke."""

    async def send(self, item: bytes) -> None:
        """Send all of it."""


class Session:
    """The host's end of one channel. One operation at a time; after an error or a cancellation none.

    Args:
        stream: to the guest.
        config: whose limits hold.
    """

    def __init__(self, stream: Stream, config: SandboxConfig) -> None:
        self._stream = stream
        self._config = config
        self._connection = Connection(Role.HOST)
        self._values = Streams(max_bytes=config.max_value_bytes, max_streams=MAX_STREAMS)
        self._writing = anyio.Lock()
        self._sent_streams = 0
        self._cells = 0
        self._ended: str | None = None

    async def handshake(self, *, digest: str, depth: int, worker_memory_bytes: int) -> None:
        """Greet the guest. The caller sets the deadline.

        Raises:
            SandboxStartError: it is not the guest that belongs to this host.
            SandboxDied, SandboxMisbehaved: it is gone.
        """
        with self._in_use():
            ready = await self._expect(Ready)
            if ready.version != VERSION or ready.digest != digest:
                raise SandboxStartError(
                    "The sandbox image was built from other sources than this version of rlm: build it again with "
                    "`make image`."
                )
            await self._send(
                Start(
                    version=VERSION,
                    depth=depth,
                    max_output_bytes=self._config.max_output_bytes,
                    worker_memory_bytes=worker_memory_bytes,
                    max_calls_in_flight=self._config.max_calls_in_flight,
                )
            )

    async def load(self, name: str, value: Value) -> LoadedValue:
        """Bind a variable; see `Sandbox.load`."""
        with self._in_use():
            payload = await self._send_ahead(value.pieces(), value.size)
            await self._send(Load(name=name, kind=value.kind, value=payload))
            with self._deadline(LOAD_SECONDS + LOAD_SECONDS_PER_BYTE * value.size, "did not load a value in time"):
                loaded = await self._expect(Loaded)
        if not loaded.ok:
            raise ConfigError(f"The sandbox could not load `{name}`: {loaded.error}.")
        return LoadedValue(type=loaded.type, size=loaded.size)

    async def run(
        self,
        code: str,
        *,
        seconds: float,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell; see `Sandbox.run`."""
        with self._in_use():
            self._cells += 1
            encoded = code.encode("utf-8", "surrogatepass")
            payload = await self._send_bytes_ahead(encoded)
            await self._send(Execute(cell=self._cells, code=payload, seconds=seconds))
            cell = _Cell(self._cells, seconds, self._config, answer or _refuse, on_output)
            try:
                async with anyio.create_task_group() as answers:
                    result = await self._follow(cell, answers)
                    answers.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                _raise_first(group)
            final = None if result.answer is None else self._text(result.answer)
            self._values.clear()
        return CellResult(
            outcome=result.outcome,
            stdout=cell.captured[1].text(result.stdout_bytes),
            stderr=cell.captured[2].text(result.stderr_bytes),
            stdout_cut=cell.captured[1].missing(result.stdout_bytes),
            stderr_cut=cell.captured[2].missing(result.stderr_bytes),
            error=result.error,
            answer=final,
            snapshot=result.snapshot,
            seconds=result.seconds,
        )

    async def _follow(self, cell: _Cell, answers: TaskGroup) -> Result:
        """Read until the cell has ended; each query is answered by a task of its own."""
        with anyio.CancelScope(deadline=cell.deadline()) as patience:
            cell.patience = patience
            while True:
                message = await self._receive()
                if getattr(message, "cell", cell.number) != cell.number:
                    raise SandboxMisbehaved("The sandbox spoke of a cell that does not run.")
                match message:
                    case Output():
                        cell.take_output(message)
                    case Query():
                        cell.asked(message.call)
                        answers.start_soon(self._answer, cell, self._query(message))
                    case Result():
                        cell.finish()
                        return message
                    case _:
                        raise SandboxMisbehaved(f"The sandbox sent a {type(message).__name__} while a cell ran.")
        raise SandboxMisbehaved(f"The sandbox did not end a cell after its {cell.seconds:g} seconds.")

    def _query(self, message: Query) -> SandboxQuery:
        context = None
        if message.context is not None:
            context = opaque(message.context_kind, self._bytes(message.context))
        return SandboxQuery(
            call=message.call,
            batch=message.batch,
            prompt=self._text(message.prompt),
            context=context,
            model=message.model,
            recurse=message.recurse,
        )

    async def _answer(self, cell: _Cell, query: SandboxQuery) -> None:
        reply = await cell.answer(query)
        text = reply.text.encode("utf-8", "surrogatepass")
        with anyio.CancelScope(shield=True):  # half a value would stay with the guest for ever
            payload = await self._send_bytes_ahead(text)
            await self._send(Reply(call=query.call, ok=reply.ok, text=payload))
        cell.answered(query.call)

    # Values and messages

    async def _send_ahead(self, pieces: Iterable[Piece], size: int) -> Payload:
        if size <= INLINE_BYTES:
            return b"".join(pieces)
        self._sent_streams += 1
        stream = self._sent_streams
        for piece in pieces:
            await self._send(Chunk(stream=stream, data=bytes(piece)))
        return Blob(stream=stream, size=size)

    async def _send_bytes_ahead(self, data: bytes) -> Payload:
        return await self._send_ahead(opaque("bytes", data).pieces(), len(data))

    def _bytes(self, payload: Payload) -> bytes:
        if isinstance(payload, bytes):
            return payload
        try:
            return self._values.take(payload.stream, payload.size)
        except ProtocolError as error:
            raise SandboxMisbehaved(f"The sandbox broke the protocol: {error}.") from error

    def _text(self, payload: Payload) -> str:
        try:
            return self._bytes(payload).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise SandboxMisbehaved("The sandbox sent text that is not UTF-8.") from error

    async def _send(self, message: Message) -> None:
        """One frame, whole or not at all: a cancellation must not leave half of one on the stream."""
        async with self._writing:
            data = self._connection.send(message)
            with anyio.CancelScope(shield=True), self._deadline(WRITE_SECONDS, "does not read"):
                try:
                    await self._stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                    raise SandboxDied("The sandbox has ended.") from error

    async def _expect(self, kind: type[M]) -> M:
        message = await self._receive()
        if not isinstance(message, kind):
            raise SandboxMisbehaved(f"The sandbox sent a {type(message).__name__} instead of a {kind.__name__}.")
        return message

    async def _receive(self) -> Message:
        """The next message that is not a chunk; those are put together in the meantime."""
        while True:
            try:
                message = self._connection.next_message()
                if isinstance(message, Chunk):
                    self._values.add(message)
                elif message is not None:
                    return message
                else:
                    self._connection.receive_data(await self._stream.receive(RECEIVE_BYTES))
            except ProtocolError as error:
                raise SandboxMisbehaved(f"The sandbox broke the protocol: {error}.") from error
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise SandboxDied("The sandbox has ended.") from error

    # Order and time

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """An operation that does not come to its end leaves the two ends out of step: then the session is over."""
        if self._ended is not None:
            raise SandboxDied(f"The sandbox cannot be used any more: {self._ended}")
        self._ended = "another operation is under way, or was cancelled."
        try:
            yield
        except SandboxError as error:
            self._ended = str(error)
            raise
        self._ended = None

    @contextmanager
    def _deadline(self, seconds: float, what: str) -> Iterator[None]:
        with anyio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise SandboxMisbehaved(f"The sandbox {what} ({seconds:g} s).")


class _Cell:
    """What the host keeps of the running cell: its output, its open queries, and how long to wait for its end."""

    def __init__(
        self, number: int, seconds: float, config: SandboxConfig, answer: Answer, on_output: OnOutput | None
    ) -> None:
        self.number = number
        self.seconds = seconds
        self.answer = answer
        self.patience: anyio.CancelScope
        self.captured = {
            1: _Captured("stdout", config.max_output_bytes, on_output),
            2: _Captured("stderr", config.max_output_bytes, on_output),
        }
        self._max_waiting = config.max_calls_in_flight
        self._waiting: set[int] = set()
        self._latest = 0
        self._left = seconds + GRACE_SECONDS
        self._since = anyio.current_time()

    def deadline(self) -> float:
        """On the event loop's clock; it stands still while queries wait, as the cell's own does."""
        return math.inf if self._waiting else self._since + self._left

    def asked(self, call: int) -> None:
        if call <= self._latest or len(self._waiting) >= self._max_waiting:
            raise SandboxMisbehaved("The sandbox used a call number twice, or has too many calls open.")
        if not self._waiting:
            self._left -= anyio.current_time() - self._since
        self._latest = call
        self._waiting.add(call)
        self.patience.deadline = self.deadline()

    def answered(self, call: int) -> None:
        self._waiting.discard(call)
        if not self._waiting:
            self._since = anyio.current_time()
        self.patience.deadline = self.deadline()

    def take_output(self, output: Output) -> None:
        if output.stream not in self.captured:
            raise SandboxMisbehaved("The sandbox wrote to a stream that there is not.")
        self.captured[output.stream].take(output.data)

    def finish(self) -> None:
        for captured in self.captured.values():
            captured.finish()


class _Captured:
    """One output stream of a cell: bounded, and told as text while it comes."""

    def __init__(self, name: Literal["stdout", "stderr"], most: int, on_output: OnOutput | None) -> None:
        self._name = name
        self._half = max(1, most // 2)
        self._most = most + OUTPUT_SLACK
        self._data = bytearray()
        self._on_output = on_output
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def take(self, data: bytes) -> None:
        if len(self._data) + len(data) > self._most:
            raise SandboxMisbehaved("The sandbox sent more output than it may.")
        self._data += data
        self._tell(self._decoder.decode(data))

    def finish(self) -> None:
        self._tell(self._decoder.decode(b"", final=True))

    def _tell(self, text: str) -> None:
        if self._on_output is not None and text:
            self._on_output(self._name, text)

    def missing(self, total: int) -> int:
        return max(0, total - len(self._data))

    def text(self, total: int) -> str:
        """All of it; or, where the guest cut the middle out, head and tail with the number of bytes between them."""
        missing = self.missing(total)
        if not missing:
            return self._data.decode("utf-8", "backslashreplace")
        head, tail = self._data[: self._half], self._data[self._half :]
        return (
            head.decode("utf-8", "backslashreplace")
            + f"\n[... {missing:,} bytes left out ...]\n"
            + tail.decode("utf-8", "backslashreplace")
        )


async def _refuse(query: SandboxQuery) -> QueryReply:
    return QueryReply(ok=False, text="This sandbox has no models to call.")


def _raise_first(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """What ended the cell; the rest of the group are its consequences."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    raise error from error.__cause__
