"""The host's end of a channel: messages and values over a byte stream, with limits on size, rate and time.

No background task reads: the caller that waits for a message reads the stream. All input is untrusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

import anyio

from rlm.config import SandboxConfig
from rlm.errors import SandboxDied, SandboxError, SandboxMisbehaved
from rlm.protocol.connection import Connection, Role, Streams
from rlm.protocol.messages import INLINE_BYTES, MIB, Blob, Chunk, Message, Payload, ProtocolError

from .meter import Meter
from .values import Piece, opaque

RECEIVE_BYTES: Final = MIB
WRITE_SECONDS: Final = 30.0  # limit for the guest to take one frame; a genuine guest reads all the time
FRAME_SECONDS: Final = 30.0  # limit from the first byte of a frame to its last
MAX_STREAMS: Final = 16  # values sent ahead at once; an honest guest sends one after the other

M = TypeVar("M", bound=Message)


class Stream(Protocol):
    """A byte stream to a guest. Any `anyio.abc.ByteStream` is one."""

    async def receive(self, max_bytes: int = ...) -> bytes:
        """Return the next bytes. Raises anyio.EndOfStream at the end, anyio.BrokenResourceError on failure."""

    async def send(self, item: bytes) -> None:
        """Send all bytes."""


class Channel:
    """Exchanges messages with one guest.

    Args:
        stream: Connection to the guest.
        config: Sets the limits.
    """

    def __init__(self, stream: Stream, config: SandboxConfig) -> None:
        self._stream = stream
        self._connection = Connection(Role.HOST)
        self._meter = Meter(config, anyio.current_time())
        self._unmetered_frames = 0
        self._frame_since: float | None = None  # when the unfinished frame began to arrive
        self._values = Streams(max_bytes=config.max_value_bytes, max_streams=MAX_STREAMS)
        self._writing = anyio.Lock()
        self._last_stream = 0
        self._unusable_because: str | None = None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Run one operation. If it does not finish, both ends are out of step, and the channel becomes unusable."""
        if self._unusable_because is not None:
            raise SandboxDied(f"The sandbox is no longer usable: {self._unusable_because}")
        self._unusable_because = "another operation is in progress, or was cancelled."
        try:
            yield
        except SandboxError as error:
            self._unusable_because = str(error)
            raise
        self._unusable_because = None

    async def send(self, message: Message) -> None:
        """Send one message. Concurrent answers take turns frame by frame."""
        async with self._writing:
            data = self._connection.send(message)
            with deadline(WRITE_SECONDS, "does not read"):
                try:
                    await self._stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                    raise SandboxDied("The sandbox has ended.") from error

    async def send_value(self, pieces: Iterable[Piece], size: int) -> Payload:
        """Send a large value ahead of its message. Returns the field that stands for the value."""
        if size <= INLINE_BYTES:
            return b"".join(pieces)
        self._last_stream += 1
        stream = self._last_stream
        for piece in pieces:
            await self.send(Chunk(stream=stream, data=bytes(piece)))
        return Blob(stream=stream, size=size)

    async def send_bytes(self, data: bytes) -> Payload:
        """As `send_value`, for bytes in memory."""
        return await self.send_value(opaque("bytes", data).pieces(), len(data))

    async def expect(self, kind: type[M]) -> M:
        """Receive a message of this type. Raises SandboxMisbehaved for any other."""
        message = await self.receive()
        if not isinstance(message, kind):
            raise SandboxMisbehaved(f"The sandbox sent a {type(message).__name__} instead of a {kind.__name__}.")
        return message

    async def receive(self) -> Message:
        """Receive the next message that is not a chunk; chunks are collected for `value_of`."""
        while True:
            try:
                message = self._connection.next_message()
                if message is not None:
                    self._frame_since = None
                    self._unmetered_frames += 1
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
        self._meter.add_frames(self._unmetered_frames, now)
        self._unmetered_frames = 0
        if (delay := self._meter.delay(now)) > 0:
            await anyio.sleep(delay)
            now += delay
            self._frame_since = None  # do not charge the guest for the host's own delay
        if not self._connection.mid_frame:
            data = await self._stream.receive(RECEIVE_BYTES)
        else:
            self._frame_since = self._frame_since or now
            with deadline(FRAME_SECONDS, "did not finish a message in time", since=self._frame_since):
                data = await self._stream.receive(RECEIVE_BYTES)
        self._meter.add_bytes(len(data), now)
        return data

    def value_of(self, payload: Payload) -> bytes:
        """Remove and return the bytes of a received field."""
        if isinstance(payload, bytes):
            return payload
        try:
            return self._values.take(payload.stream, payload.size)
        except ProtocolError as error:
            raise SandboxMisbehaved(f"The sandbox broke the protocol: {error}.") from error

    def discard_values(self) -> None:
        """Drop collected values that no message used."""
        self._values.clear()


@contextmanager
def deadline(seconds: float, failure: str, *, since: float | None = None) -> Iterator[None]:
    """Limit a wait that started at `since` on the event loop's clock (default: now).

    Raises:
        SandboxMisbehaved: The time is over; the message is "The sandbox" and `failure`.
    """
    start = anyio.current_time() if since is None else since
    with anyio.CancelScope(deadline=start + seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise SandboxMisbehaved(f"The sandbox {failure} ({seconds:g} s).")
