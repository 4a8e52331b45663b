"""The HTTP client below the openai client: limits each attempt, waits for busy servers, finds errors in replies.

One of two modules that import openai and the HTTP libraries below it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from importlib import import_module
from itertools import count
from typing import Any, Final

from . import environment
from .gate import Gate, retry_after
from .refusals import (
    BAD_GATEWAY,
    BROKEN_OFF,
    RATE_LIMITED,
    UNAVAILABLE,
    WINDOW_EXCEEDED,
    HiddenError,
    body_of,
    error_message,
    hidden_error,
    is_loading,
    is_out_of_credit,
    is_too_long,
)
from .stream import StreamCutOff, decode

with environment.without_key_log():
    import aiohttp
    import openai

NO_CONNECTION: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
KEPT_HEADERS: Final = frozenset({"x-request-id", "retry-after", "retry-after-ms", "x-should-retry"})
HIDDEN: Final = "rlm_hidden_error"  # names the extension of a response that holds its HiddenError
RETRY_HEADER: Final = "x-stainless-retry-count"  # set by the openai client

# A body that is surely a plain reply, so that it need not be decoded to look for errors in it.
_PLAIN_REPLY: Final = re.compile(rb'\s*\{(?=.*"choices"\s*:\s*\[\s*\{)(?!.*"error"\s*:\s*[^n\s])', re.DOTALL)
_BROKEN_OFF: Final = re.compile(
    rf'"finish_reason"\s*:\s*"(?:{"|".join(sorted({*BROKEN_OFF, WINDOW_EXCEEDED}))})"'.encode()
)

# Whether an attempt at the current call was sent and its reply lost, so that the provider may bill it.
perhaps_billed = ContextVar("perhaps_billed", default=False)
# Responses to the current call that held no reply and yet a usage: they are billed.
billed: ContextVar[tuple[object, ...]] = ContextVar("billed", default=())

http_library: Any = import_module("httpx2" if int(openai.__version__.partition(".")[0]) >= 3 else "httpx")


class HttpClient(openai.DefaultAioHttpClient):
    """The aiohttp client with a gate before each attempt, and limits on its time and size.

    The libraries only time out on silence, and providers send blanks to keep a connection open.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        attempt_seconds: float,
        rate_limit_seconds: float,
        max_bytes: int,
        on_loading: Callable[[str], None],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._max_bytes = max_bytes
        self._on_loading = on_loading
        self._gate = gate
        self._attempt_seconds = attempt_seconds
        self._rate_limit_seconds = rate_limit_seconds

    async def send(self, request: Any, **options: Any) -> Any:
        """Make one attempt, and retry while the server reports a rate limit, or that it is loading the model."""
        earlier_attempts = int(request.headers.get(RETRY_HEADER, 0))
        first_sent_at: float | None = None
        for attempt in count():
            async with self._gate.slot() as sent_at:
                first_sent_at = first_sent_at or sent_at
                try:
                    response = _revealed(await self._attempt(request, **options))
                except http_library.TransportError as error:
                    if not any(isinstance(cause, NO_CONNECTION) for cause in causes_of(error)):
                        perhaps_billed.set(True)
                    raise
                if response.is_success:
                    self._gate.on_reply()
                    return response
                status, refusal = response.status_code, body_of(response.content)
                seconds = retry_after(response.headers)
                if seconds is None:
                    response.headers.pop("retry-after", None)  # the openai client may fail to read it
                is_final = is_too_long(status, refusal) or (
                    status == RATE_LIMITED and is_out_of_credit(response.content)
                )
                loading = is_loading(status, refusal)
                is_limited = status == RATE_LIMITED or loading
                wait = 0.0
                if not is_final and (is_limited or (status == UNAVAILABLE and seconds is not None)):
                    wait = self._gate.on_rate_limit(sent_at, seconds)
            if not is_final and not is_limited:
                return response
            if loading:
                self._on_loading(error_message(refusal))
            idle = asyncio.get_running_loop().time() + wait - self._gate.last_progress(first_sent_at)
            if is_final or idle > self._rate_limit_seconds:
                response.headers["x-should-retry"] = "false"  # obeyed by the openai client
                return response
            request.headers[RETRY_HEADER] = str(earlier_attempts + attempt + 1)
        raise AssertionError

    async def _attempt(self, request: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(self._attempt_seconds):
                response = await super().send(request, **{**options, "stream": True})
                try:
                    response.stream = _Bounded(response.stream, self._max_bytes)
                    await response.aread()
                except BaseException:
                    await response.aclose()
                    raise
                return response
        except TimeoutError as error:
            raise http_library.ReadTimeout("The attempt timed out.", request=request) from error
        except (
            aiohttp.ClientError,
            TooLarge,
        ) as error:  # not translated by the client
            raise http_library.ReadError(str(error), request=request) from error


def _revealed(response: Any) -> Any:
    """The response, or the error within one of status 200 as a response of its own, with the status that it names.

    Raises:
        ReadError: an event stream ends before the reply does.
    """
    content = response.content
    is_plain = _PLAIN_REPLY.match(content) is not None and not _BROKEN_OFF.search(content)
    if not response.is_success or response.request.method != "POST" or is_plain:
        return response
    if not content.strip():
        return _as_error(response, HiddenError(status=BAD_GATEWAY, body=None, predicate="sent an empty response"))
    try:
        decoded = decode(content)
    except StreamCutOff as error:
        raise http_library.ReadError("The event stream was cut off.", request=response.request) from error
    except ValueError:
        return response
    hidden = hidden_error(decoded)
    if hidden is None:
        return response
    if isinstance(decoded, dict) and decoded.get("usage"):
        billed.set((*billed.get(), decoded))
    return _as_error(response, hidden)


def _as_error(response: Any, hidden: HiddenError) -> Any:
    return http_library.Response(
        hidden.status,
        headers={name: value for name, value in response.headers.items() if name in KEPT_HEADERS},
        content=json.dumps(hidden.body).encode() if hidden.body is not None else b"",
        request=response.request,
        extensions={HIDDEN: hidden},
    )


class TooLarge(Exception):
    """A response exceeds its size limit."""


class _Bounded(http_library.AsyncByteStream):  # type: ignore[misc]
    """The body of a response. Raises TooLarge beyond its maximum size."""

    def __init__(self, stream: Any, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._max_bytes
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise TooLarge
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The causes of an error, nearest first."""
    while (cause := error.__cause__) is not None:
        yield cause
        error = cause
