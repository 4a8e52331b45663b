"""Models at OpenAI-compatible servers. The only module that imports openai and the HTTP libraries below it.

Supports openai 2.x, which runs on httpx, and 3.x, on httpx2. Requests use the client's generic `post`: it has the
retries, headers and errors of `chat.completions.create` for half the CPU time.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import count
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import openai

from rlm._util.urls import http_url
from rlm.config import MIB
from rlm.errors import ConfigError, ContextTooLong, EmptyReply, ModelError
from rlm.types import Message, ModelReply, Usage

from .base import Model
from .chat import UnusableResponse, error_message, is_out_of_credit, is_too_long, read_reply, request_body
from .gate import Gate, retry_after
from .prices import Price, Pricing, listed_window
from .redaction import Secrets
from .settings import Settings

OPENAI_URL: Final = "https://api.openai.com/v1"
CONNECT_SECONDS: Final = 10.0  # timeout of one connection: a reachable server accepts it within a few round trips
KEEP_ALIVE_SECONDS: Final = 60.0  # turns are seconds apart, and a new TLS connection costs two round trips
MAX_TOKENS_FIELDS: Final = (
    "max_completion_tokens",
    "max_tokens",
)  # the names of this limit in OpenAI's API, newest first
RESERVED_FIELDS: Final = frozenset({"messages", "model", "n", "stream", "stream_options", "timeout"})
MAX_ERROR_CHARS: Final = 400  # shown of a server's error message, which may be a whole page
MAX_RESPONSE_BYTES: Final = 64 * MIB  # a thousand times the longest reply; an endless one would fill the memory
TOO_MANY_REQUESTS: Final = 429
UNAVAILABLE: Final = 503
NO_CONNECTION: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
RETRY_HEADER: Final = "x-stainless-retry-count"  # set by the openai client

# Whether an attempt at the current call was sent and its reply lost, so that the provider may bill it.
_perhaps_billed = ContextVar("_perhaps_billed", default=False)

_http: Any = import_module("httpx2" if int(openai.__version__.partition(".")[0]) >= 3 else "httpx")


class OpenAIModel(Model):
    """A model at OpenAI or at any server with a chat-completions API.

    Use one model from any number of event loops and threads. Connections belong to an event loop, and `aclose` closes
    those of the running one. Lone surrogates, which UTF-8 cannot encode, are sent as U+FFFD.

    Usage is the provider's count. Cost is what the provider reports, else by `price`, else by the price list of the
    installed genai-prices. If a server counts no tokens, usage is estimated (four characters per token) and the cost
    unknown.

    Args:
        name: the server's name of the model.
        base_url: URL of the server. Default: `OPENAI_BASE_URL`, else OpenAI.
        api_key: key of the server. Default: `OPENAI_API_KEY`. Optional with a base URL. Put keys here or in
            `sampling["extra_headers"]`, not in URLs, which HTTP libraries log.
        max_concurrency: requests in flight, and connections, per event loop. Further calls queue. None is no limit.
        timeout: seconds for one attempt, from connecting to the last byte.
        max_retries: further attempts after 408, 409, 5xx, a timeout or a broken connection. The openai client backs off
            from 0.5 s to 8 s, or as Retry-After asks.
        rate_limit_seconds: how long to retry a call after 429 while no other call succeeds either. Meanwhile all
            requests of the event loop pause as Retry-After asks, then resume with lower concurrency (`Gate`).
        sampling: fields of the request body, such as `temperature` or `reasoning_effort`. Also takes `extra_body`,
            `extra_headers` and `extra_query`, as the openai client does.
        price: overrides the price list.
        context_window: tokens of the model's window; overrides the list.
        max_tokens_field: the server's name for the limit on output tokens. Older servers know `max_tokens` only.

    Raises:
        ConfigError: an argument is invalid, or no key was found.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        max_concurrency: int | None = 64,
        timeout: float = 600.0,
        max_retries: int = 2,
        rate_limit_seconds: float = 600.0,
        sampling: Mapping[str, object] | None = None,
        price: Price | None = None,
        context_window: int | None = None,
        max_tokens_field: str = "max_completion_tokens",
    ) -> None:
        if not name:
            raise ConfigError("The model's name is empty: use the server's name of the model.")
        if (max_concurrency is not None and max_concurrency < 1) or not timeout > 0 or max_retries < 0:
            raise ConfigError("OpenAIModel requires max_concurrency >= 1, timeout > 0 and max_retries >= 0.")
        if not rate_limit_seconds >= 0:
            raise ConfigError(f"rate_limit_seconds={rate_limit_seconds} is invalid: use seconds, 0 or more.")
        if context_window is not None and context_window < 1:
            raise ConfigError(f"context_window={context_window} is invalid: use tokens, 1 or more, or None.")
        self.name = name
        self.base_url, self._api_key = _server_and_key(base_url, api_key)
        self._server = urlsplit(self.base_url).netloc
        self._max_concurrency = max_concurrency
        self._timeout = timeout
        self._max_retries = max_retries
        self._rate_limit_seconds = rate_limit_seconds
        self.parameters, self._headers, self._query = _split(sampling or {})
        self._pricing = Pricing(base_url=self.base_url, price=price)
        self.context_window = context_window or listed_window(name, self.base_url)
        in_sampling = (field for field in MAX_TOKENS_FIELDS if field in self.parameters)
        self._max_tokens_field = next(in_sampling, max_tokens_field)  # servers reject a request with both
        limits = [self.parameters.get(field) for field in {*MAX_TOKENS_FIELDS, self._max_tokens_field}]
        self.max_tokens = min((limit for limit in limits if isinstance(limit, int)), default=None)
        self._secrets = Secrets(self._api_key, *self._headers.values(), *self._query.values())
        self._clients: dict[asyncio.AbstractEventLoop, openai.AsyncOpenAI] = {}
        self._lock = threading.Lock()

    def cost(self, usage: Usage) -> float | None:
        """Dollars by `price`, else by the list at the requested service tier."""
        tier = self.parameters.get("service_tier")
        return self._pricing.cost(usage, names=[self.name], tier=tier if isinstance(tier, str) else None)

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """Get one reply to a conversation.

        Args:
            messages: the conversation, oldest message first.
            max_tokens: limit on the reply's tokens. A smaller limit in `sampling` applies instead.

        Raises:
            ContextTooLong: the conversation exceeds the model's window.
            EmptyReply: a reply without usable text.
            ModelError: no usable reply after all retries. Neither its message nor that of its causes contains a key.
        """
        body = request_body(
            messages,
            model=self.name,
            sampling=self.parameters,
            max_tokens=max_tokens,
            max_tokens_field=self._max_tokens_field,
        )
        _perhaps_billed.set(False)
        try:
            response = await self._client().post(
                "/chat/completions", cast_to=_http.Response, body=body, options={"params": self._query}
            )
        except openai.OpenAIError as error:
            raise self._model_error(error) from self._secrets.scrub_exception(error)
        request_id = response.headers.get("x-request-id")
        try:
            reply = read_reply(
                response.content, messages=messages, model=self.name, pricing=self._pricing, request_id=request_id
            )
        except UnusableResponse as error:
            message, status = self._message(str(error)), response.status_code
            if error.finish_reason is None:
                raise ModelError(message, status=status, request_id=request_id, usage=error.usage) from None
            raise EmptyReply(
                message,
                status=status,
                request_id=request_id,
                usage=error.usage,
                finish_reason=error.finish_reason,
                text=self.redact(error.text),
                thinking=self.redact(error.thinking),
            ) from None
        # Texts go into containers and records.
        return replace(reply, text=self.redact(reply.text), thinking=self.redact(reply.thinking))

    async def check_reachable(self) -> None:
        """Check that the server is reachable, by listing its models. Free of charge.

        Raises:
            ModelError: as from `complete`. Many servers with working completions answer 404 or 405 here.
        """
        try:
            await self._client().get("/models", cast_to=_http.Response, options={"params": self._query})
        except openai.OpenAIError as error:
            raise self._model_error(error) from self._secrets.scrub_exception(error)

    def redact(self, text: str) -> str:
        """The text with this model's keys replaced by `[key]`."""
        return self._secrets.redact(text)

    async def aclose(self) -> None:
        """Close the connections of the running event loop. The next call opens new ones."""
        with self._lock:
            client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def _client(self) -> openai.AsyncOpenAI:
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._clients:
                for closed in [other for other in self._clients if other.is_closed()]:
                    del self._clients[closed]  # a client refers to its loop, so neither would be freed
                self._clients[loop] = self._new_client()
            return self._clients[loop]

    def _new_client(self) -> openai.AsyncOpenAI:
        max_concurrency = self._max_concurrency
        return openai.AsyncOpenAI(
            api_key=self._api_key or "not-needed",  # the client requires one
            base_url=self.base_url,
            max_retries=self._max_retries,
            default_headers=self._headers,  # not per request, where the client would log them
            timeout=_http.Timeout(None, connect=CONNECT_SECONDS),
            http_client=_HttpClient(
                gate=Gate(max_concurrency, max_pause_seconds=self._rate_limit_seconds),
                attempt_seconds=self._timeout,
                rate_limit_seconds=self._rate_limit_seconds,
                verify=_tls(),
                limits=_http.Limits(
                    max_connections=max_concurrency,
                    max_keepalive_connections=max_concurrency,
                    keepalive_expiry=KEEP_ALIVE_SECONDS,
                ),
            ),
        )

    def _model_error(self, error: openai.OpenAIError) -> ModelError:
        match error:
            case openai.APIStatusError(status_code=status):
                answer = f"answered {status} {error.response.reason_phrase}".rstrip() + _attempts(error)
                message = self._message(": ".join(filter(None, [answer, error_message(error.body)])))
                kind = ContextTooLong if is_too_long(status, error.body) else ModelError
                return kind(message, status=status, request_id=error.request_id)
            case openai.APIConnectionError():
                message = self._message(f"{self._connection_failure(error)}{_attempts(error)}")
                return ModelError(message, usage=None if _perhaps_billed.get() else Usage())
        return ModelError(self._message(f"gave no answer: {error}"))

    def _connection_failure(self, error: openai.APIConnectionError) -> str:
        for cause in _causes(error):
            match cause:
                case aiohttp.ConnectionTimeoutError():
                    return f"cannot be reached within {CONNECT_SECONDS:g} s"
                case aiohttp.ClientConnectorError():
                    return f"cannot be reached ({cause.os_error.strerror or cause.os_error})"
                case _TooLarge():
                    return f"sent more than {MAX_RESPONSE_BYTES // MIB} MiB in one response"
                case TimeoutError():
                    return f"gave no complete response within {self._timeout:g} s"
        return "closed the connection before its response was complete"

    def _message(self, predicate: str) -> str:
        """Redact before clipping: half a key is a leak, too."""
        predicate = self._secrets.redact(predicate)
        clipped = f"{predicate[:MAX_ERROR_CHARS]}…" if len(predicate) > MAX_ERROR_CHARS else predicate
        return f"The model server {self._server} {clipped}"


class _HttpClient(openai.DefaultAioHttpClient):
    """The aiohttp client with a gate before each attempt, and limits on its time and size.

    The libraries only time out on silence, and providers send blanks to keep a connection open.
    """

    def __init__(self, *, gate: Gate, attempt_seconds: float, rate_limit_seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._gate = gate
        self._attempt_seconds = attempt_seconds
        self._rate_limit_seconds = rate_limit_seconds

    async def send(self, request: Any, **options: Any) -> Any:
        """Make one attempt, and retry while the server reports a rate limit."""
        earlier_attempts = int(request.headers.get(RETRY_HEADER, 0))
        first_sent_at: float | None = None
        for attempt in count():
            async with self._gate.slot() as sent_at:
                first_sent_at = first_sent_at or sent_at
                try:
                    response = await self._attempt(request, **options)
                except _http.TransportError as error:
                    if not any(isinstance(cause, NO_CONNECTION) for cause in _causes(error)):
                        _perhaps_billed.set(True)
                    raise
                status = response.status_code
                seconds = retry_after(response.headers)
                no_credit = status == TOO_MANY_REQUESTS and is_out_of_credit(response.content)
                wait = 0.0
                if not no_credit and (status == TOO_MANY_REQUESTS or (status == UNAVAILABLE and seconds is not None)):
                    wait = self._gate.on_rate_limit(sent_at, seconds)
                elif response.is_success:
                    self._gate.on_reply()
            if status != TOO_MANY_REQUESTS:
                return response
            idle = asyncio.get_running_loop().time() + wait - self._gate.last_progress(first_sent_at)
            if no_credit or idle > self._rate_limit_seconds:
                response.headers["x-should-retry"] = "false"  # obeyed by the openai client
                return response
            request.headers[RETRY_HEADER] = str(earlier_attempts + attempt + 1)
        raise AssertionError

    async def _attempt(self, request: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(self._attempt_seconds):
                response = await super().send(request, **{**options, "stream": True})
                try:
                    response.stream = _Bounded(response.stream)
                    await response.aread()
                except BaseException:
                    await response.aclose()
                    raise
                return response
        except TimeoutError as error:
            raise _http.ReadTimeout("The attempt timed out.", request=request) from error
        except (
            aiohttp.ClientError,
            _TooLarge,
        ) as error:  # not translated by the client
            raise _http.ReadError(str(error), request=request) from error


class _TooLarge(Exception):
    """A response exceeds its size limit."""


class _Bounded(_http.AsyncByteStream):  # type: ignore[misc]
    """The body of a response. Raises _TooLarge beyond MAX_RESPONSE_BYTES."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_RESPONSE_BYTES
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise _TooLarge
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


@cache
def _tls() -> Any:
    """One TLS context for all clients: loading the certificates takes tens of milliseconds."""
    return _http.create_ssl_context()


def _server_and_key(base_url: str | None, api_key: str | None) -> tuple[str, str]:
    settings = Settings()
    base_url = base_url or settings.openai_base_url
    if api_key is None and settings.openai_api_key is not None:
        api_key = settings.openai_api_key.get_secret_value()
    key = (api_key or "").strip()  # a key read from a file often ends in a newline
    if not base_url and not key:
        raise ConfigError(
            "No API key found: set OPENAI_API_KEY (in the environment or in .env), or OPENAI_BASE_URL for a server "
            "without keys."
        )
    if not _is_header_value(key):
        raise ConfigError("The API key contains invalid characters: check OPENAI_API_KEY.")
    url = http_url(base_url or OPENAI_URL)
    if url is None:
        raise ConfigError(
            "The base URL is invalid: check OPENAI_BASE_URL and RLM_SUB_BASE_URL. Use a form like https://host/v1."
        )
    if url.username or url.password or url.query or url.fragment:
        raise ConfigError(
            "The base URL must not contain a user, password or query: pass a key as api_key (OPENAI_API_KEY), and a "
            "query as sampling={'extra_query': ...}."
        )
    return url.geturl(), key


def _split(sampling: Mapping[str, object]) -> tuple[dict[str, object], dict[str, str], dict[str, object]]:
    """Split `sampling` into body, headers and query."""
    extra: dict[str, dict[str, Any]] = {}
    for key in ("extra_body", "extra_headers", "extra_query"):
        value = sampling.get(key) or {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"sampling[{key!r}] is invalid: use a mapping.")
        extra[key] = dict(value)
    if not all(isinstance(value, str) and _is_header_value(value) for value in extra["extra_headers"].values()):
        raise ConfigError("sampling['extra_headers'] is invalid: map names to printable ASCII text.")
    body = {key: value for key, value in sampling.items() if key not in extra} | extra["extra_body"]
    reserved = RESERVED_FIELDS & body.keys()
    if reserved:
        names = ", ".join(f"`{name}`" for name in sorted(reserved))
        raise ConfigError(f"OpenAIModel sets {names}: remove it from `sampling`.")
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`sampling` is not valid JSON data: {error}.") from None
    return body, extra["extra_headers"], extra["extra_query"]


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _causes(error: BaseException) -> Iterator[BaseException]:
    while (cause := error.__cause__) is not None:
        yield cause
        error = cause


def _attempts(error: openai.APIError) -> str:
    retries = int(error.request.headers.get(RETRY_HEADER, 0))
    return f" after {retries + 1} attempts" if retries else ""
