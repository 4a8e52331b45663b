"""The order and the framing of messages: bytes in, messages out; messages in, bytes out. No I/O.

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
    Result,
    Served,
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
    """Where the conversation stands; the same at both ends, but for what is on its way."""

    STARTING = "starting"  # nothing heard from the guest yet
    GREETED = "greeted"  # the guest is ready, the host has not said what it may use
    IDLE = "idle"
    LOADING = "loading"
    SERVING = "serving"  # of files, or a reset
    EXECUTING = "executing"
    CLOSED = "closed"


_HOST_SAYS: Final[dict[State, dict[type[Message], State]]] = {
    State.GREETED: {Start: State.IDLE},
    # A reply can cross the end of its cell on the wire, so one that comes late is legal (and ignored).
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
_GUEST_SAYS: Final[dict[State, dict[type[Message], State]]] = {
    State.STARTING: {Ready: State.GREETED},
    State.LOADING: {Loaded: State.IDLE},
    State.SERVING: {Served: State.IDLE, Chunk: State.SERVING},
    State.EXECUTING: {
        Output: State.EXECUTING,
        Query: State.EXECUTING,
        ToolCall: State.EXECUTING,
        Chunk: State.EXECUTING,
        Result: State.IDLE,
    },
}
_PEER: Final = {Role.HOST: _GUEST_SAYS, Role.GUEST: _HOST_SAYS}
_OWN: Final = {Role.HOST: _HOST_SAYS, Role.GUEST: _GUEST_SAYS}

_HEADER_BYTES: Final = 4


class Connection:
    """One end of a channel.

    Holds at most one unfinished frame (`MAX_FRAME_BYTES`) beside what the last `receive_data` brought. After a
    `ProtocolError` the connection is CLOSED and every further use raises it again.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self._state = State.STARTING
        self._buffer = bytearray()

    @property
    def state(self) -> State:
        return self._state

    @property
    def mid_frame(self) -> bool:
        """Whether an unfinished frame has been received."""
        return bool(self._buffer)

    def send(self, message: Message) -> bytes:
        """The bytes of the frame that carries `message`.

        Raises:
            ProtocolError: this message is not legal now, or does not fit into a frame.
        """
        self._advance(_OWN[self._role], message)
        body = pack(message)
        return len(body).to_bytes(_HEADER_BYTES, "big") + body

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take bytes as they came from the peer."""
        if self._state is State.CLOSED:
            raise ProtocolError("the connection is closed")
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next whole message, or None when more bytes are needed.

        Raises:
            ProtocolError: the peer sent something that is malformed or not legal now.
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
            self._advance(_PEER[self._role], message)
        except ProtocolError:
            self._state = State.CLOSED
            raise
        del self._buffer[:end]
        return message

    def close(self) -> None:
        self._state = State.CLOSED
        self._buffer.clear()

    def _advance(self, table: dict[State, dict[type[Message], State]], message: Message) -> None:
        legal = table.get(self._state, {})
        if type(message) not in legal:
            raise ProtocolError(f"{type(message).__name__} is not legal while {self._state.value}")
        self._state = legal[type(message)]


class Streams:
    """Puts large values together from their chunks, within bounds on their number and total size.

    Args:
        max_bytes: how many bytes may be held at once, over all unfinished and unclaimed streams.
        max_streams: how many streams may be held at once.
    """

    def __init__(self, *, max_bytes: int, max_streams: int) -> None:
        self._max_bytes = max_bytes
        self._max_streams = max_streams
        self._parts: dict[int, deque[bytes]] = {}
        self._held = 0

    def add(self, chunk: Chunk) -> None:
        """Raises ProtocolError when a bound is passed."""
        if not chunk.data:
            raise ProtocolError("an empty chunk")
        if self._held + len(chunk.data) > self._max_bytes:
            raise ProtocolError("more bytes are sent ahead than the limit allows")
        if chunk.stream not in self._parts and len(self._parts) >= self._max_streams:
            raise ProtocolError("more values are sent ahead at once than the limit allows")
        self._parts.setdefault(chunk.stream, deque()).append(chunk.data)
        self._held += len(chunk.data)

    def take(self, stream: int, size: int) -> bytes:
        """The whole value; raises ProtocolError when what came is not of the announced size."""
        parts = self._parts.pop(stream, deque())
        value = b"".join(parts)
        self._held -= len(value)
        if len(value) != size:
            raise ProtocolError("a value is not of the size that its message announces")
        return value

    def clear(self) -> None:
        """Forget everything held (at the end of a cell)."""
        self._parts.clear()
        self._held = 0
