"""A guest scripted by a test, over a stream in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import anyio

from rlm.config import SandboxConfig
from rlm.protocol.connection import Connection, Role
from rlm.protocol.messages import CHUNK_BYTES, VERSION, Blob, Chunk, Execute, Message, Query, Ready, Result, Start
from rlm.sandbox.session import Session

DIGEST = "0" * 64

M = TypeVar("M", bound=Message)


class MemoryStream:
    """One end of a byte stream in memory, which splits a send into pieces of at most `piece_bytes`."""

    def __init__(self, send: Any, receive: Any, piece_bytes: int) -> None:
        self._send = send
        self._receive = receive
        self._piece_bytes = piece_bytes

    @classmethod
    def pair(cls, *, piece_bytes: int = 1 << 20, buffered: float = 0) -> tuple[Self, Self]:
        to_one, one_reads = anyio.create_memory_object_stream[bytes](buffered)
        to_other, other_reads = anyio.create_memory_object_stream[bytes](buffered)
        return cls(to_other, one_reads, piece_bytes), cls(to_one, other_reads, piece_bytes)

    async def send(self, item: bytes) -> None:
        for start in range(0, len(item), self._piece_bytes):
            await self._send.send(item[start : start + self._piece_bytes])

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data: bytes = await self._receive.receive()
        return data

    def close(self) -> None:
        self._send.close()
        self._receive.close()


class Guest:
    """The other end. `connection` obeys the protocol; `send_raw` need not."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.connection = Connection(Role.GUEST)
        self.values: dict[int, bytes] = {}
        self._streams = 0

    async def say(self, *messages: Message) -> None:
        await self.stream.send(b"".join(self.connection.send(message) for message in messages))

    async def send_raw(self, data: bytes) -> None:
        await self.stream.send(data)

    async def hear(self, kind: type[M]) -> M:
        """The next message that is not a chunk."""
        while True:
            message = self.connection.next_message()
            if isinstance(message, Chunk):
                self.values[message.stream] = self.values.get(message.stream, b"") + message.data
            elif message is not None:
                assert isinstance(message, kind)
                return message
            else:
                self.connection.receive_data(await self.stream.receive())

    def whole(self, payload: bytes | Blob) -> bytes:
        """A received value, including chunks sent ahead of it."""
        if isinstance(payload, bytes):
            return payload
        value = self.values.pop(payload.stream)
        assert len(value) == payload.size
        return value

    async def greet(self) -> Start:
        await self.say(Ready(version=VERSION, digest=DIGEST, python="3.12.0"))
        return await self.hear(Start)

    async def send_ahead(self, data: bytes) -> Blob:
        self._streams += 1
        for start in range(0, len(data), CHUNK_BYTES):
            await self.say(Chunk(stream=self._streams, data=data[start : start + CHUNK_BYTES]))
        return Blob(stream=self._streams, size=len(data))

    async def start_cell(self) -> Execute:
        return await self.hear(Execute)


def query(call: int, prompt: bytes | Blob = b"?", **fields: Any) -> Query:
    """A query of the first cell."""
    defaults = {"cell": 1, "batch": 0, "context": None, "context_kind": "text", "model": None, "recurse": None}
    return Query(call=call, prompt=prompt, **(defaults | fields))


def result(**fields: Any) -> Result:
    """The result of the first cell: success without output."""
    defaults: dict[str, Any] = {
        "cell": 1,
        "outcome": "ok",
        "error": "",
        "answer": None,
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "snapshot": True,
        "seconds": 0.5,
    }
    return Result(**(defaults | fields))


Script = Callable[[Guest], Awaitable[None]]


@asynccontextmanager
async def connected(
    script: Script, *, config: SandboxConfig | None = None, greet: bool = True, piece_bytes: int = 1 << 20
) -> AsyncIterator[Session]:
    """A session with a guest that plays `script` and then disconnects."""
    ours, theirs = MemoryStream.pair(piece_bytes=piece_bytes)

    async def play() -> None:
        guest = Guest(theirs)
        try:
            if greet:
                await guest.greet()
            await script(guest)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            return  # the host has disconnected
        finally:
            theirs.close()

    session = Session(ours, config or SandboxConfig())
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(play)
            if greet:
                await session.handshake(digest=DIGEST, depth=1, worker_memory_bytes=1 << 28)
            yield session
            group.cancel_scope.cancel()
    finally:
        ours.close()
        theirs.close()
