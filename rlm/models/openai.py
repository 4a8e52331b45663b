"""Models behind an OpenAI-compatible server. The only importer of openai, and of the HTTP libraries below it.

Both majors of openai are served: 2.x runs on httpx, 3.x on httpx2. Requests go through the client's generic `post`: it
has the retries, headers and errors of `chat.completions.create` at half of its CPU time.
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
from rlm.errors import ConfigError, ContextTooLong, ModelError, ReplyCutOff
from rlm.types import Message, ModelReply, Usage

from .chat import UnusableResponse, is_out_of_money, is_too_long, read_reply, request_body, said
from .gate import Gate, retry_after
from .prices import Price, Pricing, listed_window
from .redaction import Secrets
from .settings import Settings

OPENAI_URL: Final = "https://api.openai.com/v1"
CONNECT_SECONDS: Final = 10.0  # for one connection: a server that is there answers within a few round trips
KEEP_ALIVE_SECONDS: Final = 60.0  # a root model's turns are seconds apart, and a TLS handshake costs two round trips
SET_BY_US: Final = frozenset({"messages", "model", "n", "stream", "stream_options", "timeout"})
MAX_SENTENCE_CHARS: Final = 400  # of a server's words in an error: they may be a whole page
MAX_RESPONSE_BYTES: Final = 64 * MIB  # a thousand times the longest reply; one without end would fill the memory
TOO_MANY_REQUESTS: Final = 429
UNAVAILABLE: Final = 503
NO_CONNECTION: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
RETRIES: Final = "x-stainless-retry-count"  # the openai client's header

_perhaps_billed = ContextVar(
    "_perhaps_billed", default=False
)  # whether an attempt at this call was sent, and its reply lost

_http: Any = import_module("httpx2" if int(openai.__version__.partition(".")[0]) >= 3 else "httpx")


class OpenAIModel:
    """A model at OpenAI or at any server that speaks chat completions.

    Connections belong to an event loop: a model may be used from several loops and threads, in turn or at once, and
    each of them closes its own with `aclose`. Lone surrogates, which UTF-8 cannot carry, are sent as U+FFFD.

    Usage is the provider's. Cost is what the provider reports, else by `price`, else by the price list of the installed
    genai-prices, else None. A server that counts no tokens gets an estimate (four characters a token) and no cost.

    Args:
        name: the server's name of the model.
        base_url: of the server; None takes `OPENAI_BASE_URL`, else OpenAI.
        api_key: None takes `OPENAI_API_KEY`; with a base URL none is needed. Keys belong here or in
            `sampling["extra_headers"]`, not in URLs, which HTTP libraries log.
        max_concurrency: requests in flight and connections of one event loop; further calls wait for their turn. None is
            any number.
        timeout: seconds for one attempt, from connecting to the last byte.
        max_retries: further attempts after 408, 409, 5xx, a timeout or a broken connection. The openai client
            waits 0.5 s, then twice as long each time up to 8 s, or what Retry-After asks for.
        rate_limit_seconds: how long a call is tried again after 429 while no other one is answered either. All requests
            of the event loop wait as long as Retry-After asks for, and fewer are sent at once after that (`Gate`).
        sampling: goes into the request as it is: `temperature`, `reasoning_effort`, ...; with the names that the openai
            client knows too: `extra_body`, `extra_headers`, `extra_query`.
        price: for a model that the list does not know, or knows wrongly.
        context_window: tokens of the model's window, where the list does not know it, or knows it wrongly.
        max_tokens_field: what the server calls the limit on output tokens; older servers know `max_tokens` only.

    Raises:
        ConfigError: an argument cannot be, or there is no key.
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
            raise ConfigError("The name of the model is empty: give the name that the server knows it by.")
        if (max_concurrency is not None and max_concurrency < 1) or not timeout > 0 or max_retries < 0:
            raise ConfigError("OpenAIModel needs max_concurrency >= 1, timeout > 0 and max_retries >= 0.")
        if not rate_limit_seconds >= 0:
            raise ConfigError(f"rate_limit_seconds={rate_limit_seconds} cannot be: give seconds, 0 or more.")
        if context_window is not None and context_window < 1:
            raise ConfigError(f"context_window={context_window} is no size of a window: give tokens, or None.")
        self._name = name
        self._base_url, self._api_key = _server_and_key(base_url, api_key)
        self._server = urlsplit(self._base_url).netloc
        self._max_concurrency = max_concurrency
        self._timeout = timeout
        self._max_retries = max_retries
        self._rate_limit_seconds = rate_limit_seconds
        self._sampling, self._headers, self._query = _split(sampling or {})
        self._pricing = Pricing(base_url=self._base_url, price=price)
        self._context_window = context_window or listed_window(name, self._base_url)
        named = (field for field in ("max_completion_tokens", "max_tokens") if field in self._sampling)
        self._max_tokens_field = next(named, max_tokens_field)  # servers refuse a request that has both
        self._secrets = Secrets(self._api_key, *self._headers.values(), *self._query.values())
        self._open: dict[asyncio.AbstractEventLoop, openai.AsyncOpenAI] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    @property
    def base_url(self) -> str:
        """The server; there are no credentials in it."""
        return self._base_url

    @property
    def parameters(self) -> Mapping[str, object]:
        """What the body of every request holds beside model and messages."""
        return self._sampling

    @property
    def context_window(self) -> int | None:
        return self._context_window

    @property
    def max_tokens(self) -> int | None:
        limits = [
            self._sampling.get(field) for field in {"max_completion_tokens", "max_tokens", self._max_tokens_field}
        ]
        return min((limit for limit in limits if isinstance(limit, int)), default=None)

    def cost(self, usage: Usage) -> float | None:
        """By the price given, else by the list at the service tier asked for."""
        tier = self._sampling.get("service_tier")
        return self._pricing.cost(usage, names=[self._name], tier=tier if isinstance(tier, str) else None)

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """One reply to a conversation.

        Raises:
            ContextTooLong: the server says that the conversation is longer than the model's window.
            ModelError: the server cannot be reached, answers with an error, or its response holds no text (after the
                retries). No key is part of the sentence, nor of the text of the errors that caused it.
        """
        body = request_body(
            messages,
            model=self._name,
            sampling=self._sampling,
            max_tokens=max_tokens,
            max_tokens_field=self._max_tokens_field,
        )
        _perhaps_billed.set(False)
        try:
            response = await self._client().post(
                "/chat/completions", cast_to=_http.Response, body=body, options={"params": self._query}
            )
        except openai.OpenAIError as error:
            raise self._translated(error) from self._secrets.scrub_exception(error)
        request_id = response.headers.get("x-request-id")
        try:
            reply = read_reply(
                response.content, asked=messages, model=self._name, pricing=self._pricing, request_id=request_id
            )
        except UnusableResponse as error:
            kind = ReplyCutOff if error.cut_off else ModelError
            raise kind(
                self._sentence(str(error)),
                status=response.status_code,
                request_id=request_id,
                usage=error.usage,
            ) from None
        return replace(reply, text=self.redact(reply.text))  # it goes on into containers and records

    async def reach(self) -> None:
        """Ask the server for its models, which costs nothing.

        Raises:
            ModelError: as `complete` raises it; many servers that are good for completions answer 404 or 405 here.
        """
        try:
            await self._client().get("/models", cast_to=_http.Response, options={"params": self._query})
        except openai.OpenAIError as error:
            raise self._translated(error) from self._secrets.scrub_exception(error)

    def redact(self, text: str) -> str:
        """A text without this client's keys."""
        return self._secrets.redact(text)

    async def aclose(self) -> None:
        """Close the running event loop's connections; the next call opens new ones."""
        with self._lock:
            client = self._open.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def _client(self) -> openai.AsyncOpenAI:
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._open:
                for ended in [other for other in self._open if other.is_closed()]:
                    del self._open[ended]  # a client holds its loop, so neither would ever be freed
                self._open[loop] = self._new_client()
            return self._open[loop]

    def _new_client(self) -> openai.AsyncOpenAI:
        most = self._max_concurrency
        return openai.AsyncOpenAI(
            api_key=self._api_key or "not-needed",  # the client insists on one
            base_url=self._base_url,
            max_retries=self._max_retries,
            default_headers=self._headers,  # here rather than with each request, where the client would log them
            timeout=_http.Timeout(None, connect=CONNECT_SECONDS),
            http_client=_HttpClient(
                gate=Gate(most, patience=self._rate_limit_seconds),
                attempt_seconds=self._timeout,
                rate_limit_seconds=self._rate_limit_seconds,
                verify=_tls(),
                limits=_http.Limits(
                    max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP_ALIVE_SECONDS
                ),
            ),
        )

    def _translated(self, error: openai.OpenAIError) -> ModelError:
        match error:
            case openai.APIStatusError(status_code=status):
                answer = f"answered {status} {error.response.reason_phrase}".rstrip() + _attempts(error)
                sentence = self._sentence(": ".join(filter(None, [answer, said(error.body)])))
                kind = ContextTooLong if is_too_long(status, error.body) else ModelError
                return kind(sentence, status=status, request_id=error.request_id)
            case openai.APIConnectionError():
                sentence = self._sentence(f"{self._what_broke(error)}{_attempts(error)}")
                return ModelError(sentence, usage=None if _perhaps_billed.get() else Usage())
        return ModelError(self._sentence(f"cannot be asked: {error}"))

    def _what_broke(self, error: openai.APIConnectionError) -> str:
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
        return "broke the connection off before its response was complete"

    def _sentence(self, words: str) -> str:
        """Secrets go before anything is cut: half a key is a leak too."""
        words = self._secrets.redact(words)
        cut = f"{words[:MAX_SENTENCE_CHARS]}…" if len(words) > MAX_SENTENCE_CHARS else words
        return f"The model server {self._server} {cut}"


class _HttpClient(openai.DefaultAioHttpClient):
    """The aiohttp client, with a gate before all attempts, and limits on the time and size of each.

    The libraries limit the silence between two bytes only, and providers send blanks to keep a connection open.
    """

    def __init__(self, *, gate: Gate, attempt_seconds: float, rate_limit_seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._gate = gate
        self._attempt_seconds = attempt_seconds
        self._rate_limit_seconds = rate_limit_seconds

    async def send(self, request: Any, **options: Any) -> Any:
        """One attempt, and further ones for as long as the server only says that they come too fast."""
        before = int(request.headers.get(RETRIES, 0))
        began: float | None = None
        for attempt in count():
            async with self._gate.passing() as sent:
                began = began or sent
                try:
                    response = await self._attempt(request, **options)
                except _http.TransportError as error:
                    if not any(isinstance(cause, NO_CONNECTION) for cause in _causes(error)):
                        _perhaps_billed.set(True)
                    raise
                status = response.status_code
                asked = retry_after(response.headers)
                poor = status == TOO_MANY_REQUESTS and is_out_of_money(response.content)
                wait = 0.0
                if not poor and (status == TOO_MANY_REQUESTS or (status == UNAVAILABLE and asked is not None)):
                    wait = self._gate.refused(sent, asked)
                elif response.is_success:
                    self._gate.answered()
            if status != TOO_MANY_REQUESTS:
                return response
            idle = asyncio.get_running_loop().time() + wait - self._gate.idle_since(began)
            if poor or idle > self._rate_limit_seconds:
                response.headers["x-should-retry"] = "false"  # which the openai client obeys
                return response
            request.headers[RETRIES] = str(before + attempt + 1)
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
            raise _http.ReadTimeout("The attempt's time is up.", request=request) from error
        except (aiohttp.ClientError, _TooLarge) as error:  # not translated: a response that is not HTTP, or without end
            raise _http.ReadError(str(error), request=request) from error


class _TooLarge(Exception):
    """A response that does not end."""


class _Bounded(_http.AsyncByteStream):  # type: ignore[misc]
    """The body of a response, which ends in an error where it is too large."""

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
    """One for all clients: loading the certificates takes tens of milliseconds."""
    return _http.create_ssl_context()


def _server_and_key(base_url: str | None, api_key: str | None) -> tuple[str, str]:
    settings = Settings()
    base_url = base_url or settings.openai_base_url
    if api_key is None and settings.openai_api_key is not None:
        api_key = settings.openai_api_key.get_secret_value()
    key = (api_key or "").strip()  # a key read from a file often ends in a newline
    if not base_url and not key:
        raise ConfigError(
            "There is no API key: set OPENAI_API_KEY (in the environment or in .env), or OPENAI_BASE_URL for a server "
            "that needs none."
        )
    if not _is_header_value(key):
        raise ConfigError("The API key holds characters that no key has: check OPENAI_API_KEY.")
    url = http_url(base_url or OPENAI_URL)
    if url is None:
        raise ConfigError("The base URL must look like https://host/v1: check OPENAI_BASE_URL, or RLM_SUB_BASE_URL.")
    if url.username or url.password or url.query or url.fragment:
        raise ConfigError(
            "The base URL must hold no user, password or query: give a key as api_key (OPENAI_API_KEY) and a query as "
            "sampling={'extra_query': ...}."
        )
    return url.geturl(), key


def _split(sampling: Mapping[str, object]) -> tuple[dict[str, object], dict[str, str], dict[str, object]]:
    """What goes into the body, the headers and the query."""
    extra: dict[str, dict[str, Any]] = {}
    for key in ("extra_body", "extra_headers", "extra_query"):
        value = sampling.get(key) or {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"sampling[{key!r}] must be a mapping.")
        extra[key] = dict(value)
    if not all(isinstance(value, str) and _is_header_value(value) for value in extra["extra_headers"].values()):
        raise ConfigError("sampling['extra_headers'] must map names to text that a header can hold.")
    body = {key: value for key, value in sampling.items() if key not in extra} | extra["extra_body"]
    taken = SET_BY_US & body.keys()
    if taken:
        raise ConfigError(f"sampling cannot set {', '.join(sorted(taken))}: OpenAIModel does.")
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"sampling cannot be sent as JSON: {error}.") from None
    return body, extra["extra_headers"], extra["extra_query"]


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _causes(error: BaseException) -> Iterator[BaseException]:
    while (cause := error.__cause__) is not None:
        yield cause
        error = cause


def _attempts(error: openai.APIError) -> str:
    retries = int(error.request.headers.get(RETRIES, 0))
    return f" after {retries + 1} attempts" if retries else ""
