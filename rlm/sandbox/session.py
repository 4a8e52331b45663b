"""One conversation with a guest, over any byte stream.

There is no task in the background: whoever waits for something reads. Everything that the guest sends is hostile; what
is not legal, too much, or too late is `SandboxMisbehaved`, and the session is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NoReturn, Protocol, TypeVar

import anyio
import msgpack
from anyio.abc import TaskGroup

from rlm.config import SandboxConfig
from rlm.errors import ConfigError, SandboxDied, SandboxError, SandboxMisbehaved, SandboxStartError
from rlm.protocol.connection import Connection, Role, Streams
from rlm.protocol.messages import (
    INLINE_BYTES,
    MIB,
    VERSION,
    Blob,
    Chunk,
    Execute,
    Get,
    ListFiles,
    Load,
    Loaded,
    Message,
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
)
from rlm.types import CellResult

from .base import Answer, LoadedValue, OnOutput, QueryReply, SandboxQuery
from .cell import RunningCell
from .files import MAX_FILES, Listing, check_path, read_listing
from .meter import Meter
from .tools import Tools
from .values import Piece, Value, opaque

RECEIVE_BYTES: Final = MIB
WRITE_SECONDS: Final = 30.0  # for a guest to take one frame: it reads all the time, unless it is not what we started
FRAME_SECONDS: Final = 30.0  # from the first byte of a frame to its last
LOAD_SECONDS: Final = 60.0  # to build a value from bytes that have arrived ...
LOAD_SECONDS_PER_BYTE: Final = 0.2 / MIB  # ... a hundred times what was measured
MAX_CELL_SECONDS: Final = 1e6  # what every clock on the way can hold
GRACE_SECONDS: Final = 10.0  # beyond a cell's own time, which the guest keeps, until the host gives up on it
SERVE_SECONDS: Final = 60.0  # to write or read a file, or to begin anew
MAX_SHOWN_CHARS: Final = 300  # of a guest's words in an error
MAX_STREAMS: Final = 16  # values sent ahead at once; an honest guest sends one after the other

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
        self._meter = Meter(config, anyio.current_time())
        self._frames = 0  # read since the meter was told
        self._frame_since: float | None = None  # when the first bytes of an unfinished frame were there
        self._values = Streams(max_bytes=config.max_value_bytes, max_streams=MAX_STREAMS)
        self._writing = anyio.Lock()
        self._tools: Tools | None = None
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
                    "`rlm image build` (or `make image`)."
                )
            await self._send(
                Start(
                    version=VERSION,
                    depth=depth,
                    max_output_bytes=self._config.max_output_bytes,
                    worker_memory_bytes=worker_memory_bytes,
                    max_calls_in_flight=self._config.max_calls_in_flight,
                    max_value_bytes=self._config.max_value_bytes,
                )
            )

    async def load(self, name: str, value: Value) -> LoadedValue:
        """Bind a variable; see `Sandbox.load`."""
        if not name.isidentifier():
            raise ConfigError(f"{name!r} cannot be the name of a variable.")
        return await self._load(name, value)

    async def offer(self, tools: Tools) -> None:
        """Bind functions of the host; see `Sandbox.offer`."""
        self._tools = tools
        descriptions = msgpack.packb(tools.descriptions)
        await self._load("tools", opaque("tools", descriptions))

    async def _load(self, name: str, value: Value) -> LoadedValue:
        with self._in_use():
            payload = await self._send_ahead(value.pieces(), value.size)
            await self._send(Load(name=name, kind=value.kind, value=payload))
            with _deadline(LOAD_SECONDS + LOAD_SECONDS_PER_BYTE * value.size, "did not load a value in time"):
                loaded = await self._expect(Loaded)
            if loaded.size > value.size:
                raise SandboxMisbehaved("The sandbox said that a value is larger than what it was sent.")
        if not loaded.ok:
            raise ConfigError(f"The sandbox could not load `{name}`: {_shown(loaded.error)}.")
        return LoadedValue(type=loaded.type, size=loaded.size)

    async def put(self, path: str, content: Value) -> None:
        """Write a file; see `Sandbox.put`."""
        check_path(path)
        with self._in_use():
            value = await self._send_ahead(content.pieces(), content.size)
            served = await self._serve(Put(path=path, value=value))
        if not served.ok:
            raise ConfigError(f"The sandbox could not write {path!r}: {_shown(served.error)}.")

    async def get(self, path: str, *, max_bytes: int) -> bytes:
        """A file's bytes; see `Sandbox.get`."""
        check_path(path)
        if not 0 <= max_bytes <= self._config.max_value_bytes:
            most = f"{self._config.max_value_bytes:,} (SandboxConfig.max_value_bytes)"
            raise ConfigError(f"max_bytes={max_bytes:,} has to be at most {most}.")
        with self._in_use():
            served = await self._serve(Get(path=path, max_bytes=max_bytes))
            content = b"" if served.value is None else self._bytes(served.value)
            self._values.clear()
            if len(content) > max_bytes:
                raise SandboxMisbehaved("The sandbox sent a file that is larger than was asked for.")
        if not served.ok:
            raise ConfigError(f"The sandbox gives no file {path!r}: {_shown(served.error)}.")
        return content

    async def files(self) -> Listing:
        """Path and size of the files; see `Sandbox.files`."""
        with self._in_use():
            served = await self._serve(ListFiles(max_files=MAX_FILES))
            data = b"" if served.value is None else self._bytes(served.value)
            self._values.clear()
            found = read_listing(data) if served.ok else Listing()
        if not served.ok:
            raise ConfigError(f"The sandbox names no files: {_shown(served.error)}.")
        return found

    async def reset(self) -> None:
        """Begin anew; see `Sandbox.reset`."""
        with self._in_use():
            served = await self._serve(Reset())
            if not served.ok:
                raise SandboxMisbehaved("The sandbox did not begin anew.")
        if self._tools is not None:
            await self.offer(self._tools)

    async def _serve(self, wish: Put | Get | ListFiles | Reset) -> Served:
        await self._send(wish)
        with _deadline(SERVE_SECONDS, "did not serve a file or a reset in time"):
            return await self._expect(Served)

    async def run(
        self,
        code: str,
        *,
        seconds: float,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell; see `Sandbox.run`."""
        if not 0 < seconds <= MAX_CELL_SECONDS:
            raise ConfigError(f"A cell's seconds have to be above 0 and at most {MAX_CELL_SECONDS:g}, not {seconds!r}.")
        with self._in_use():
            self._cells += 1
            encoded = code.encode("utf-8", "surrogatepass")
            payload = await self._send_bytes_ahead(encoded)
            calls = answer is not None or self._tools is not None
            await self._send(Execute(cell=self._cells, code=payload, seconds=seconds, calls=calls))
            cell = RunningCell(
                self._cells,
                seconds=seconds + GRACE_SECONDS,
                config=self._config,
                answer=answer or _refuse,
                on_output=on_output,
            )
            try:
                async with anyio.create_task_group() as answers:
                    result = await self._follow(cell, answers)
                    cell.end()
            except BaseExceptionGroup as group:
                _raise_first(group)
            final = None if result.answer is None else self._text(result.answer)
            stdout, stdout_cut = cell.stdout.finish(result.stdout_bytes)
            stderr, stderr_cut = cell.stderr.finish(result.stderr_bytes)
            self._values.clear()
        return CellResult(
            outcome=result.outcome,
            stdout=stdout,
            stderr=stderr,
            stdout_cut=stdout_cut,
            stderr_cut=stderr_cut,
            error=result.error,
            answer=final,
            snapshot=result.snapshot,
            seconds=result.seconds,
        )

    async def _follow(self, cell: RunningCell, answers: TaskGroup) -> Result:
        """Read until the cell has ended; each query is answered by a task of its own."""
        with cell.patience:
            while True:
                message = await self._receive()
                if getattr(message, "cell", cell.number) != cell.number:
                    raise SandboxMisbehaved("The sandbox spoke of a cell that does not run.")
                match message:
                    case Output():
                        cell.take(message)
                    case Query():
                        query, size = self._query(message)
                        cell.asked(query.call, size)
                        answers.start_soon(self._answer, cell, query.call, partial(_found, cell.answer, query))
                    case ToolCall():
                        arguments = self._bytes(message.arguments)
                        cell.asked(message.call, len(arguments))
                        answers.start_soon(
                            self._answer, cell, message.call, partial(self._used, message.name, arguments)
                        )
                    case Result():
                        return message
                    case _:
                        raise SandboxMisbehaved(f"The sandbox sent a {type(message).__name__} while a cell ran.")
        raise SandboxMisbehaved(f"The sandbox did not end a cell {GRACE_SECONDS:g} s after its time was up.")

    def _query(self, message: Query) -> tuple[SandboxQuery, int]:
        """What is asked, and the number of its bytes."""
        prompt = self._bytes(message.prompt)
        context = None
        if message.context is not None:
            context = opaque(message.context_kind, self._bytes(message.context))
        query = SandboxQuery(
            call=message.call,
            batch=message.batch,
            prompt=_decoded(prompt),
            context=context,
            model=message.model,
            recurse=message.recurse,
        )
        return query, len(prompt) + (context.size if context is not None else 0)

    async def _answer(self, cell: RunningCell, call: int, find: Callable[[], Awaitable[tuple[bool, bytes]]]) -> None:
        """Find the answer to a call for as long as its cell runs, and send it whole."""
        with cell.thinking() as thinking:
            ok, data = await find()
        if not thinking.cancelled_caught:
            await self._send(Reply(call=call, ok=ok, text=await self._send_bytes_ahead(data)))
            cell.answered(call)

    async def _used(self, name: str, arguments: bytes) -> tuple[bool, bytes]:
        if self._tools is None:
            return False, b"This sandbox has no tools."
        used = await self._tools.use(name, arguments)
        return used.ok, used.data

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
        return _decoded(self._bytes(payload))

    async def _send(self, message: Message) -> None:
        """One frame; frames of several answers take turns."""
        async with self._writing:
            data = self._connection.send(message)
            with _deadline(WRITE_SECONDS, "does not read"):
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
                if message is not None:
                    self._frame_since = None
                    self._frames += 1
                if isinstance(message, Chunk):
                    self._values.add(message)
                elif message is not None:
                    return message
                else:
                    self._connection.receive_data(await self._receive_bytes())
            except ProtocolError as error:
                raise SandboxMisbehaved(f"The sandbox broke the protocol: {error}.") from error
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise SandboxDied("The sandbox has ended.") from error

    async def _receive_bytes(self) -> bytes:
        now = anyio.current_time()
        self._meter.frames(self._frames, now)
        self._frames = 0
        if (wait := self._meter.wait(now)) > 0:
            await anyio.sleep(wait)
            now += wait
            self._frame_since = None  # the host's own waiting is not the guest's
        if not self._connection.mid_frame:
            data = await self._stream.receive(RECEIVE_BYTES)
        else:
            self._frame_since = self._frame_since or now
            with _deadline(FRAME_SECONDS, "did not finish a message in time", since=self._frame_since):
                data = await self._stream.receive(RECEIVE_BYTES)
        self._meter.bytes(len(data), now)
        return data

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
def _deadline(seconds: float, what: str, *, since: float | None = None) -> Iterator[None]:
    """Bounds a wait that began `since` then on the event loop's clock, or now."""
    began = anyio.current_time() if since is None else since
    with anyio.CancelScope(deadline=began + seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise SandboxMisbehaved(f"The sandbox {what} ({seconds:g} s).")


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise SandboxMisbehaved("The sandbox sent text that is not UTF-8.") from error


def _shown(error: str) -> str:
    return error[:MAX_SHOWN_CHARS].rstrip(".")


async def _found(answer: Answer, query: SandboxQuery) -> tuple[bool, bytes]:
    reply = await answer(query)
    return reply.ok, reply.text.encode("utf-8", "surrogatepass")


async def _refuse(query: SandboxQuery) -> QueryReply:
    return QueryReply(ok=False, text="This sandbox has no models to call.")


def _raise_first(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """What ended the cell; the rest of the group are its consequences."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    raise error from error.__cause__
