"""An OpenAI-compatible server on loopback. Its replies and faults are a function of the conversation.

Imports nothing of rlm: real clients talk to it over HTTP.
"""

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

TRICKLE_SECONDS: Final = 0.02  # pause between the blanks of an endless response: far below a client's read timeout
TRICKLE_BYTES: Final = 1_000_000  # announced rest of an endless response: more than a test waits for
MAX_HEAD_BYTES: Final = 64 * 1024  # limit of request line and headers, as in other servers
BACKLOG: Final = 4096  # pending connections: a test may open thousands at once
CHARS_PER_TOKEN: Final = 4  # a rough estimate for English


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A successful response.

    Attributes:
        text: the message's content; None for a message without content.
        finish_reason: the API's word: `stop`, `length`, `content_filter`, ...
        refusal: the message's refusal.
        input_tokens, output_tokens: reported usage; None estimates it at four characters per token. A lower
            `max_completion_tokens` or `max_tokens` of the request cuts the reply off.
        cached_tokens, reasoning_tokens: reported as details of the usage.
        cost: dollars, as OpenRouter reports them; None reports none.
        usage: whether to report usage at all.
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
    """A faulty response, such as `Fault(status=429, headers={"retry-after": "1"})` or `Fault(sent="half", then="drop")`.

    Attributes:
        status: the HTTP status.
        headers: further headers, in lower case. Another `content-type` replaces JSON's.
        body: bytes are sent unchanged; anything else as JSON.
        sent: how much of the response is sent.
        then: what happens to the connection afterwards. `trickle` leaves it hanging like `hang`, but sends a blank now
            and then, as providers do to keep connections open.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = field(default_factory=dict)
    sent: Literal["nothing", "headers", "half", "all"] = "all"
    then: Literal["keep", "drop", "hang", "trickle"] = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that the server received.

    Attributes:
        path: path of the URL, such as `/v1/chat/completions`.
        headers: header values by name in lower case.
        body: the decoded JSON.
    """

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation, in the API's format."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages


Responder = Callable[[Sequence[Mapping[str, Any]], str], str | Reply | Fault]


def in_order(*responses: str | Reply | Fault) -> Responder:
    """Responses in this order, whatever the request. The last one repeats."""
    numbers = count()
    return lambda messages, model: responses[min(next(numbers), len(responses) - 1)]


class RateLimited:
    """Lets a number of requests per period through, and answers the others with status 429.

    Args:
        respond: answers the requests within the limit.
        requests: maximum requests per period.
        seconds: length of the period.
        send_retry_after: whether a 429 response says how long to wait.
    """

    def __init__(self, respond: Responder, *, requests: int, seconds: float, send_retry_after: bool = True) -> None:
        self._respond = respond
        self._requests = requests
        self._seconds = seconds
        self._send_retry_after = send_retry_after
        self._answered_at: list[float] = []

    def __call__(self, messages: Sequence[Mapping[str, Any]], model: str) -> str | Reply | Fault:
        """The response, or a 429."""
        now = time.monotonic()
        self._answered_at = [then for then in self._answered_at if then > now - self._seconds]
        if len(self._answered_at) < self._requests:
            self._answered_at.append(now)
            return self._respond(messages, model)
        wait_seconds = self._answered_at[0] + self._seconds - now
        headers = {"retry-after-ms": f"{wait_seconds * 1000:.0f}"} if self._send_retry_after else {}
        body = {"error": {"message": "Rate limit reached", "code": "rate_limit"}}
        return Fault(status=429, headers=headers, body=body)


class FakeProvider:
    """A chat-completions server for real clients, as an async context manager or, with a thread, as a plain one.

        with FakeProvider(lambda messages, model: messages[-1]["content"].upper()) as provider:
            client = OpenAI(base_url=provider.base_url, api_key="any")

    `GET /v1/models` returns an empty list.

    Args:
        respond: a function of the messages and the model's name that returns the response; or one text for every
            conversation. A text is short for `Reply(text=...)`.
        latency: seconds that each response takes.

    Attributes:
        base_url: URL for the client, such as `http://127.0.0.1:41234/v1`. Empty before the server has started.
        requests: received requests, in order. A test may clear the list.
        input_tokens, output_tokens: total usage that replies have reported.
        max_concurrent: maximum number of requests in flight at once.
        connections: number of accepted connections.
    """

    def __init__(self, respond: Responder | str = "ok", *, latency: float = 0.0) -> None:
        self.respond = respond if callable(respond) else in_order(respond)
        self.latency = latency
        self.requests: list[Request] = []
        self.input_tokens = self.output_tokens = 0
        self.max_concurrent = self.connections = 0
        self.base_url = ""
        self._in_flight = 0
        self._request_numbers = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ExitStack()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve_connection, "127.0.0.1", 0, limit=MAX_HEAD_BYTES, backlog=BACKLOG
        )
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __enter__(self) -> Self:
        portal = self._thread.enter_context(start_blocking_portal())
        self._thread.enter_context(portal.wrap_async_context_manager(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.close()

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._serve_request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client hung up, or the server is closing
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. Returns whether to keep the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        if head[0].startswith("GET "):
            writer.write(_response(200, {}, b'{"object": "list", "data": []}'))
            return True
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        request = Request(path=head[0].split(" ")[1], headers=headers, body=body)
        self.requests.append(request)
        self._in_flight += 1
        self.max_concurrent = max(self.max_concurrent, self._in_flight)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            response = self.respond(request.messages, body["model"])
            if isinstance(response, Fault):
                return await self._send_fault(response, reader, writer)
            reply = Reply(text=response) if isinstance(response, str) else response
            headers = {"x-request-id": f"req-{next(self._request_numbers)}"}
            writer.write(_response(200, headers, self._completion(request, reply)))
            return True
        finally:
            self._in_flight -= 1

    async def _send_fault(self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
        if fault.then == "trickle":
            body += b" " * TRICKLE_BYTES  # counts as content-length
        headers = {"x-request-id": f"req-{next(self._request_numbers)}", **fault.headers}
        data = _response(fault.status, headers, body)
        head_bytes = len(data) - len(body)
        match fault.sent:
            case "nothing":
                data = b""
            case "headers":
                data = data[:head_bytes]
            case "half":
                data = data[: head_bytes + len(body) // 2]
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
        max_tokens = request.body.get("max_completion_tokens", request.body.get("max_tokens"))
        if max_tokens is not None and output_tokens > max_tokens:
            text, reason, output_tokens = text and text[: CHARS_PER_TOKEN * max_tokens], "length", max_tokens
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
            estimate = sum(_tokens(message["content"]) for message in request.messages)
            input_tokens = estimate if reply.input_tokens is None else reply.input_tokens
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
    phrase = HTTPStatus(status).phrase if status in list(HTTPStatus) else "Unknown"
    headers = {"content-type": "application/json", **headers}
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode("latin-1") + body


def _tokens(text: str) -> int:
    return -(-len(text) // CHARS_PER_TOKEN)
