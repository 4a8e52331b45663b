"""A chat-completions server on loopback whose replies, and faults, are a function of the conversation."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Any, Final, Literal, Self

from anyio.from_thread import start_blocking_portal

TRICKLE_SECONDS: Final = 0.02  # between the blanks of a response that never ends
MAX_HEAD_BYTES: Final = 64 * 1024  # of a request line and its headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A good response. Tokens that are None are counted as one for four characters; without `usage` none are told.

    Where the request sets a limit on them that is lower, the reply is cut off there.
    """

    text: str | None
    finish_reason: str = "stop"
    refusal: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None
    usage: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A bad response: it is sent as far as `sent` says, and then the connection is kept, dropped or left hanging.

    `trickle` hangs too, and sends a blank now and then, as providers do to keep a connection open. A `body` that is not
    bytes is sent as JSON. Examples: `Fault(status=429, headers={"retry-after": "1"})`, `Fault(body=b"{")`,
    `Fault(sent="headers", then="hang")`.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = field(default_factory=dict)
    sent: Literal["nothing", "headers", "half", "all"] = "all"
    then: Literal["keep", "drop", "hang", "trickle"] = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client sent. Names of headers are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.body["messages"]


Behaviour = Callable[[Sequence[Mapping[str, Any]], str], str | Reply | Fault]


def in_turn(*responses: str | Reply | Fault) -> Behaviour:
    """One response after the other, whatever is asked; the last one for ever."""
    numbers = count()
    return lambda messages, model: responses[min(next(numbers), len(responses) - 1)]


class RateLimited:
    """A behaviour that answers so many requests in each period, and refuses the others with the time that is left of it."""

    def __init__(self, behaviour: Behaviour, *, requests: int, seconds: float, tells: bool = True) -> None:
        self._behaviour = behaviour
        self._requests = requests
        self._seconds = seconds
        self._tells = tells
        self._answered: list[float] = []

    def __call__(self, messages: Sequence[Mapping[str, Any]], model: str) -> str | Reply | Fault:
        now = time.monotonic()
        self._answered = [then for then in self._answered if then > now - self._seconds]
        if len(self._answered) < self._requests:
            self._answered.append(now)
            return self._behaviour(messages, model)
        left = self._answered[0] + self._seconds - now
        headers = {"retry-after-ms": f"{left * 1000:.0f}"} if self._tells else {}
        return Fault(
            status=429, headers=headers, body={"error": {"message": "Rate limit reached", "code": "rate_limit"}}
        )


class FakeProvider:
    """Serves `POST .../chat/completions`, as an async context manager, or as a plain one with a thread of its own. A GET
    gets an empty list of models.

        async with FakeProvider(lambda messages, model: messages[-1]["content"].upper()) as provider:
            model = OpenAIModel("gpt-5", base_url=provider.base_url)

    Args:
        behaviour: the response to a conversation; or one text for all.
        latency: seconds that each response takes.

    Attributes:
        requests: what came in, in order. Emptied by the test if it likes.
        input_tokens, output_tokens: what the good responses counted, together.
        max_concurrent: most requests in work at once.
        connections: accepted so far.
    """

    def __init__(self, behaviour: Behaviour | str = "ok", *, latency: float = 0.0) -> None:
        self.behaviour = behaviour if callable(behaviour) else in_turn(behaviour)
        self.latency = latency
        self.requests: list[Request] = []
        self.input_tokens = self.output_tokens = 0
        self.max_concurrent = self.connections = 0
        self.base_url = ""
        self._in_work = 0
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ExitStack()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=MAX_HEAD_BYTES, backlog=4096)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __enter__(self) -> Self:
        portal = self._thread.enter_context(start_blocking_portal())
        return self._thread.enter_context(portal.wrap_async_context_manager(self))

    def __exit__(self, *error: object) -> None:
        self._thread.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went, or the test is over: nothing is left to serve
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection is kept."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        if head[0].startswith("GET "):
            writer.write(_response(200, {}, b'{"object": "list", "data": []}'))
            return True
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        request = Request(path=head[0].split(" ")[1], headers=headers, body=body)
        self.requests.append(request)
        self._in_work += 1
        self.max_concurrent = max(self.max_concurrent, self._in_work)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            response = self.behaviour(request.messages, body["model"])
            if isinstance(response, Fault):
                return await self._send_fault(response, reader, writer)
            reply = Reply(text=response) if isinstance(response, str) else response
            headers = {"x-request-id": f"req-{next(self._numbers)}"}
            writer.write(_response(200, headers, self._completion(request, reply)))
            return True
        finally:
            self._in_work -= 1

    async def _send_fault(self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
        if fault.then == "trickle":
            body += b" " * 1_000_000  # announced, and never sent in full
        headers = {"x-request-id": f"req-{next(self._numbers)}", **fault.headers}
        data = _response(fault.status, headers, body)
        head = len(data) - len(body)
        match fault.sent:
            case "nothing":
                data = b""
            case "headers":
                data = data[:head]
            case "half":
                data = data[: head + len(body) // 2]
        writer.write(data.rstrip(b" ") if fault.then == "trickle" else data)
        while fault.then == "trickle":
            await asyncio.sleep(TRICKLE_SECONDS)
            writer.write(b" ")
            await writer.drain()
        if fault.then == "hang":
            await reader.read(1)  # until the client hangs up
        return fault.then == "keep"

    def _completion(self, request: Request, reply: Reply) -> bytes:
        text, reason = reply.text, reply.finish_reason
        output_tokens = _tokens(text or "") if reply.output_tokens is None else reply.output_tokens
        most = request.body.get("max_completion_tokens", request.body.get("max_tokens"))
        if most is not None and output_tokens > most:
            text, reason, output_tokens = text and text[: 4 * most], "length", most
        message = {"role": "assistant", "content": text, "refusal": reply.refusal}
        choice = {"index": 0, "finish_reason": reason, "message": message}
        completion: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": request.body["model"],
            "choices": [choice],
        }
        if reply.usage:
            asked = sum(_tokens(message["content"]) for message in request.messages)
            input_tokens = asked if reply.input_tokens is None else reply.input_tokens
            self.input_tokens += input_tokens
            self.output_tokens += output_tokens
            completion["usage"] = {
                "prompt_tokens": input_tokens,
                "completion_tokens": output_tokens,
                "total_tokens": input_tokens + output_tokens,
                "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
                "completion_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
            }
            if reply.cost is not None:
                completion["usage"]["cost"] = reply.cost
        return json.dumps(completion).encode()


def _response(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode("latin-1") + body


def _tokens(text: str) -> int:
    return -(-len(text) // 4)
