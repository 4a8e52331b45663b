"""Order and framing of messages, without I/O: bytes in, messages out; messages in, bytes out.

    connection = Connection(Role.HOST)
    connection.receive_data(data)
    while (message := connection.next_message()) is not None: ...
    stream.send(connection.send(message))

A frame is a 4-byte big-endian length and that many bytes of one message. Standard library and msgpack only.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from .messages import (
    MAX_FRAME_BYTES,
    Chunk,
    Execute,
    Get,
    ListFiles,
    Load,
    Loaded,
    Message,
    Output,
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


class Role(enum.Enum):
    """Which end of the channel a connection is."""

    HOST = "host"
    GUEST = "guest"


class State(enum.Enum):
    """Phase of the conversation; both ends agree, except about messages in flight."""

    STARTING = "starting"  # nothing received from the guest yet
    GREETED = "greeted"  # the guest is ready; the host has not sent the limits yet
    IDLE = "idle"
    LOADING = "loading"
    SERVING = "serving"  # a file request or a reset
    EXECUTING = "executing"
    CLOSED = "closed"


_HOST_MESSAGES: Final[dict[State, dict[type[Message], State]]] = {
    State.GREETED: {Start: State.IDLE},
    # A reply can cross its cell's result on the wire, so a late reply is legal (and ignored).
    State.IDLE: {
        Load: State.LOADING,
        Execute: State.EXECUTING,
        Put: State.SERVING,
        Get: State.SERVING,
        ListFiles: State.SERVING,
        Reset: State.SERVING,
        Chunk: State.IDLE,
        Reply: State.IDLE,
    },
    State.LOADING: {},
    State.SERVING: {},
    State.EXECUTING: {Reply: State.EXECUTING, Chunk: State.EXECUTING},
}
_GUEST_MESSAGES: Final[dict[State, dict[type[Message], State]]] = {
    State.STARTING: {Ready: State.GREETED},
    State.LOADING: {Loaded: State.IDLE},
    State.SERVING: {Response: State.IDLE, Chunk: State.SERVING},
    State.EXECUTING: {
        Output: State.EXECUTING,
        Query: State.EXECUTING,
        ToolCall: State.EXECUTING,
        Chunk: State.EXECUTING,
        Result: State.IDLE,
    },
}
_RECEIVABLE: Final = {Role.HOST: _GUEST_MESSAGES, Role.GUEST: _HOST_MESSAGES}
_SENDABLE: Final = {Role.HOST: _HOST_MESSAGES, Role.GUEST: _GUEST_MESSAGES}

_HEADER_BYTES: Final = 4


class Connection:
    """One end of a channel.

    Buffers at most one unfinished frame (`MAX_FRAME_BYTES`) plus the data of the last `receive_data`. After a
    `ProtocolError` the connection is CLOSED, and every further use raises again.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self._state = State.STARTING
        self._buffer = bytearray()

    @property
    def state(self) -> State:
        """The current phase."""
        return self._state

    @property
    def mid_frame(self) -> bool:
        """Whether a frame has arrived in part."""
        return bool(self._buffer)

    def send(self, message: Message) -> bytes:
        """Encode a message as one frame.

        Raises:
            ProtocolError: The message is not legal in this state, or does not fit into a frame.
        """
        self._advance(_SENDABLE[self._role], message)
        body = pack(message)
        return len(body).to_bytes(_HEADER_BYTES, "big") + body

    def receive_data(self, data: bytes | memoryview) -> None:
        """Buffer bytes from the peer. Raises ProtocolError when the connection is closed."""
        if self._state is State.CLOSED:
            raise ProtocolError("the connection is closed")
        self._buffer += data

    def next_message(self) -> Message | None:
        """Return the next complete message, or None when more bytes are needed.

        Raises:
            ProtocolError: The peer sent a message that is malformed or not legal in this state.
        """
        if self._state is State.CLOSED:
            raise ProtocolError("the connection is closed")
        if len(self._buffer) < _HEADER_BYTES:
            return None
        length = int.from_bytes(self._buffer[:_HEADER_BYTES], "big")
        if length > MAX_FRAME_BYTES:
            self._state = State.CLOSED
            raise ProtocolError(f"a frame of {length} bytes is announced; the limit is {MAX_FRAME_BYTES}")
        end = _HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        try:
            with memoryview(self._buffer) as view:
                message = unpack(view[_HEADER_BYTES:end])
            self._advance(_RECEIVABLE[self._role], message)
        except ProtocolError:
            self._state = State.CLOSED
            raise
        del self._buffer[:end]
        return message

    def close(self) -> None:
        """Drop buffered bytes; no further use is legal."""
        self._state = State.CLOSED
        self._buffer.clear()

    def _advance(self, table: dict[State, dict[type[Message], State]], message: Message) -> None:
        legal = table.get(self._state, {})
        if type(message) not in legal:
            raise ProtocolError(f"{type(message).__name__} is not legal while {self._state.value}")
        self._state = legal[type(message)]


class Streams:
    """Joins the chunks of large values, with limits on the number of streams and their total size.

    Args:
        max_bytes: Limit on buffered bytes, over all unfinished and unclaimed streams.
        max_streams: Limit on buffered streams.
    """

    def __init__(self, *, max_bytes: int, max_streams: int) -> None:
        self._max_bytes = max_bytes
        self._max_streams = max_streams
        self._parts: dict[int, deque[bytes]] = {}
        self._buffered_bytes = 0

    def add(self, chunk: Chunk) -> None:
        """Buffer one chunk. Raises ProtocolError when it is empty or exceeds a limit."""
        if not chunk.data:
            raise ProtocolError("a chunk is empty")
        if self._buffered_bytes + len(chunk.data) > self._max_bytes:
            raise ProtocolError("more bytes are sent ahead than the limit allows")
        if chunk.stream not in self._parts and len(self._parts) >= self._max_streams:
            raise ProtocolError("more values are sent ahead at once than the limit allows")
        self._parts.setdefault(chunk.stream, deque()).append(chunk.data)
        self._buffered_bytes += len(chunk.data)

    def take(self, stream: int, size: int) -> bytes:
        """Remove and return a complete value. Raises ProtocolError when its size is not the announced one."""
        parts = self._parts.pop(stream, deque())
        value = b"".join(parts)
        self._buffered_bytes -= len(value)
        if len(value) != size:
            raise ProtocolError("a value does not have the announced size")
        return value

    def clear(self) -> None:
        """Drop all buffered chunks (at the end of a cell)."""
        self._parts.clear()
        self._buffered_bytes = 0
