"""A model server on loopback that answers as a function says: with any status, any headers and any bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request. `body` is None for GET."""

    path: str
    headers: Mapping[str, str]
    body: Any = None


@dataclass(frozen=True, kw_only=True)
class Said:
    """A response. A `body` that is not bytes is sent as JSON, after `seconds`."""

    body: object = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


Answer = Callable[[Asked], Said]


@dataclass(kw_only=True)
class OddServer:
    """A running server. `asked` has its requests, in order."""

    base_url: str = ""
    asked: list[Asked] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[OddServer]:
    """Serve until the block ends. Requests that are still open are dropped."""
    server = OddServer()
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _serve(reader, writer, answer, server)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client hung up, or the server is closing
        finally:
            tasks.discard(task)
            writer.close()

    listening = await asyncio.start_server(accepted, "127.0.0.1", 0, limit=1 << 20)
    server.base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer, server: OddServer) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    length = int(headers.get("content-length", 0))
    body = json.loads(await reader.readexactly(length)) if length else None
    asked = Asked(path=head[0].split(" ")[1], headers=headers, body=body)
    server.asked.append(asked)
    said = answer(asked)
    if said.seconds:
        await asyncio.sleep(said.seconds)
    data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
    sent = {"content-type": "application/json", "content-length": str(len(data)), "connection": "close", **said.headers}
    lines = [f"HTTP/1.1 {said.status} {HTTPStatus(said.status).phrase}", *map(": ".join, sent.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + data)
    await writer.drain()
