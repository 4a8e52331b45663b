"""Models at OpenAI-compatible servers. With `transport`, the only one to import openai and its HTTP library.

Supports openai 2.x, which runs on httpx, and 3.x, on httpx2. Requests use the client's generic `post`: it has the
retries, headers and errors of `chat.completions.create` for half the CPU time.
"""

from __future__ import annotations

import asyncio
import http
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from rlm._util.logs import get_logger
from rlm.config import MIB
from rlm.errors import ConfigError, ContextTooLong, EmptyReply, ModelError
from rlm.types import Message, ModelReply, Usage

from . import environment
from .adapt import MAX_ADAPTIONS, MAX_TOKENS_FIELDS, Accepted
from .base import Model
from .chat import UnusableResponse, counted_usage, read_reply, request_body
from .connection import server_and_key, split_sampling
from .gate import Gate
from .prices import Price, Pricing, listed_window
from .redaction import Secrets
from .refusals import HiddenError, body_of, error_message, is_too_long, room_for_reply, stated_window
from .stream import StreamCutOff
from .transport import HIDDEN, RETRY_HEADER, HttpClient, TooLarge, billed, causes_of, perhaps_billed
from .transport import http_library as _http
from .window import entry_window, find_entry, native_path, native_window

with environment.without_key_log():
    import aiohttp
    import openai

CONNECT_SECONDS: Final = 10.0  # timeout of one connection: a reachable server accepts it within a few round trips
WINDOW_SECONDS: Final = 3.0  # for the server's list of models: it must not delay a run that works without it
KEEP_ALIVE_SECONDS: Final = 60.0  # turns are seconds apart, and a new TLS connection costs two round trips
MAX_ERROR_CHARS: Final = 400  # shown of a server's error message, which may be a whole page
MAX_RESPONSE_BYTES: Final = 64 * MIB  # a thousand times the longest reply; an endless one would fill the memory
MIN_ROOM: Final = 8  # a reply may have at least an eighth of the window, else the conversation is too long

_log = get_logger("rlm.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawResponse:
    """A response of a server: its status, headers by name in lower case, and body, after `seconds`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


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
        context_window: tokens of the model's window; overrides the list. If neither knows it, a run asks a server other
            than OpenAI's once (`find_window`).
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
        self.base_url, self._api_key = server_and_key(base_url, api_key)
        self._server = urlsplit(self.base_url).netloc
        self._max_concurrency = max_concurrency
        self._timeout = timeout
        self._max_retries = max_retries
        self._rate_limit_seconds = rate_limit_seconds
        self.parameters, self._headers, self._query = split_sampling(sampling or {})
        self._pricing = Pricing(base_url=self.base_url, price=price)
        self.context_window = context_window or listed_window(name, self.base_url)
        in_sampling = (field for field in MAX_TOKENS_FIELDS if field in self.parameters)
        self._max_tokens_field = next(in_sampling, max_tokens_field)  # servers reject a request with both
        limits = [self.parameters.get(field) for field in {*MAX_TOKENS_FIELDS, self._max_tokens_field}]
        self.max_tokens = min((limit for limit in limits if isinstance(limit, int)), default=None)
        self._accepted = Accepted()
        self._loading_warned = False
        self._proxy = environment.proxy_for(self.base_url)
        proxy_password = "" if self._proxy is None else self._proxy.password
        self._secrets = Secrets(self._api_key, proxy_password, *self._headers.values(), *self._query.values())
        self._clients: dict[asyncio.AbstractEventLoop, openai.AsyncOpenAI] = {}
        self._lock = threading.Lock()
        self._window_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._asks_window = self.context_window is None and not _is_openai(self._server)

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
        configured = request_body(
            messages,
            model=self.name,
            sampling=self.parameters,
            max_tokens=max_tokens,
            max_tokens_field=self._max_tokens_field,
        )
        perhaps_billed.set(False)
        billed.set(())
        try:
            response = await self._post(configured)
        except openai.OpenAIError as error:
            usage = self._counted(messages)
            raise self._model_error(error, usage) from self._secrets.scrub_exception(error)
        request_id = response.headers.get("x-request-id")
        try:
            reply = read_reply(
                response.content, messages=messages, model=self.name, pricing=self._pricing, request_id=request_id
            )
        except UnusableResponse as error:
            message, status = self._message(str(error)), response.status_code
            usage = self._counted(messages, error.usage)
            if error.finish_reason is None:
                raise ModelError(message, status=status, request_id=request_id, usage=usage) from None
            raise EmptyReply(
                message,
                status=status,
                request_id=request_id,
                usage=usage,
                finish_reason=error.finish_reason,
                text=self.redact(error.text),
                thinking=self.redact(error.thinking),
            ) from None
        usage = self._counted(messages, reply.usage) or reply.usage
        # Texts go into containers and records.
        return replace(reply, text=self.redact(reply.text), thinking=self.redact(reply.thinking), usage=usage)

    async def _post(self, configured: Mapping[str, Any]) -> Any:
        """Send a request, adapted to what the server accepts as far as known. Learns from refusals."""
        cap: int | None = None  # of this request's reply
        for attempt in count():
            accepted = self._accepted
            body = accepted.apply(configured, limit_field=self._max_tokens_field)
            limit_field = accepted.limit_field or self._max_tokens_field
            if cap is not None and limit_field in body:
                body[limit_field] = min(cap, body[limit_field])
            try:
                return await self._client().post(
                    "/chat/completions", cast_to=_http.Response, body=body, options={"params": self._query}
                )
            except openai.APIStatusError as error:
                refusal = body_of(error.response.content)
                room, limit = room_for_reply(refusal), body.get(limit_field)
                least = (stated_window(refusal) or 0) // MIN_ROOM
                if cap is None and isinstance(limit, int) and room is not None and limit > room >= least > 0:
                    cap = room
                    continue
                if attempt == MAX_ADAPTIONS or not self._learn(error.status_code, refusal, sent=body, used=accepted):
                    raise
        raise AssertionError

    def _learn(self, status: int, refusal: object, *, sent: Mapping[str, Any], used: Accepted) -> bool:
        """Learn from a refusal what the server accepts. Returns whether another request may succeed."""
        if is_too_long(status, refusal):
            return False
        with self._lock:
            known = self._accepted
            if known != used and known.apply(sent, limit_field=used.limit_field or self._max_tokens_field) != sent:
                return True  # another call has learnt it meanwhile
            learnt = known.learn(status, refusal, sent=sent)
            if learnt is None or learnt[0] == known:
                return False
            self._accepted, change = learnt
        said = self.redact(error_message(refusal))[:MAX_ERROR_CHARS]
        _log.warning("request_adapted", model=self.name, server=self._server, change=change, refusal=said)
        return True

    def _counted(self, messages: Sequence[Message], usage: Usage | None = None) -> Usage | None:
        """A usage, and what the server counted for responses without a reply; None if it counted nothing."""
        for response in billed.get():
            more = counted_usage(response, messages=messages, model=self.name, pricing=self._pricing)
            if more is not None:
                usage = more if usage is None else usage + replace(more, calls=0)
        return usage

    async def check_reachable(self) -> None:
        """Check that the server is reachable, by listing its models. Free of charge. Learns a window that the list states.

        Raises:
            ModelError: as from `complete`. Many servers with working completions answer 404 or 405 here.
        """
        try:
            response = await self._client().get("/models", cast_to=_http.Response, options={"params": self._query})
        except openai.OpenAIError as error:
            raise self._model_error(error, None) from self._secrets.scrub_exception(error)
        if self._asks_window and (entry := find_entry(response.content, self.name)) is not None:
            self.context_window = entry_window(entry)

    async def exchange(self, path: str, body: object = None) -> RawResponse:
        """Send one request, and return the response as it is: for checks of a server. GET if there is no body.

        Raises:
            ModelError: no response.
        """
        client = self._client().with_options(max_retries=0)
        began = asyncio.get_running_loop().time()
        try:
            if body is None:
                response = await client.get(path, cast_to=_http.Response, options={"params": self._query})
            else:
                response = await client.post(path, cast_to=_http.Response, body=body, options={"params": self._query})
        except openai.APIStatusError as error:
            response = error.response
        except openai.OpenAIError as error:
            raise self._model_error(error, None) from self._secrets.scrub_exception(error)
        seconds = asyncio.get_running_loop().time() - began
        headers = {name.lower(): value for name, value in response.headers.items()}
        return RawResponse(status=response.status_code, headers=headers, body=response.content, seconds=seconds)

    async def find_window(self) -> None:
        """Set `context_window`, if it is unknown, to what the server's list of models says. Asks once, without retries.

        Never asks OpenAI. A failure, or no answer within `WINDOW_SECONDS`, leaves the window unknown.
        """
        if not self._asks_window:
            return
        with self._lock:
            lock = self._window_locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with lock:  # runs that start together wait for one answer
            if self._asks_window:
                try:
                    async with asyncio.timeout(WINDOW_SECONDS):
                        window = await self._server_window()
                except (openai.OpenAIError, TimeoutError):
                    window = None
                self.context_window = self.context_window or window
                self._asks_window = False

    async def _server_window(self) -> int | None:
        entry = find_entry(await self._get("/models"), self.name)
        if entry is None:
            return None
        if (window := entry_window(entry)) is not None:
            return window
        path = native_path(entry)
        if path is None:
            return None
        root = self.base_url.rstrip("/").removesuffix("/v1")
        return native_window(await self._get(root + path), self.name)

    async def _get(self, path: str) -> bytes:
        client = self._client().with_options(max_retries=0)
        response = await client.get(path, cast_to=_http.Response, options={"params": self._query})
        content: bytes = response.content
        return content

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
            http_client=HttpClient(
                gate=Gate(max_concurrency, max_pause_seconds=self._rate_limit_seconds),
                attempt_seconds=self._timeout,
                rate_limit_seconds=self._rate_limit_seconds,
                max_bytes=MAX_RESPONSE_BYTES,
                on_loading=self._warn_loading,
                verify=self._tls(),
                proxy=None if self._proxy is None else self._proxy.url,
                trust_env=False,  # what it says is in `_proxy` and in the TLS context
                limits=_http.Limits(
                    max_connections=max_concurrency,
                    max_keepalive_connections=max_concurrency,
                    keepalive_expiry=KEEP_ALIVE_SECONDS,
                ),
            ),
        )

    def _tls(self) -> Any:
        """The TLS context. Unusable certificates do no harm to a server without TLS, but to one that it redirects to."""
        try:
            return _tls()
        except ConfigError:
            if urlsplit(self.base_url).scheme == "https" or (self._proxy and self._proxy.url.startswith("https")):
                raise
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody

    def _warn_loading(self, message: str) -> None:
        with self._lock:
            if self._loading_warned:
                return
            self._loading_warned = True
        said = self.redact(message)[:MAX_ERROR_CHARS]
        _log.warning(
            "model_loading", model=self.name, server=self._server, message=said, patience=self._rate_limit_seconds
        )

    def _model_error(self, error: openai.OpenAIError, usage: Usage | None) -> ModelError:
        match error:
            case openai.APIStatusError():
                return self._status_error(error, usage)
            case openai.APIConnectionError():
                message = self._message(f"{self._connection_failure(error)}{_attempts(error)}")
                return ModelError(message, usage=usage if usage or perhaps_billed.get() else Usage())
        return ModelError(self._message(f"gave no answer: {error}"), usage=usage)

    def _status_error(self, error: openai.APIStatusError, usage: Usage | None) -> ModelError:
        status, refusal = error.status_code, body_of(error.response.content)
        hidden: HiddenError | None = error.response.extensions.get(HIDDEN)
        answer = hidden.predicate if hidden else f"answered {status} {error.response.reason_phrase}".rstrip()
        message = self._message(
            ": ".join(filter(None, [answer + _attempts(error), error_message(refusal)])),
            path=error.request.url.path if status == http.HTTPStatus.NOT_FOUND else "",
            advice=self._advice(status, refusal),
        )
        if hidden and hidden.body is None:
            status = http.HTTPStatus.OK  # what the server charges for it is unknown
        if is_too_long(status, refusal):
            window = stated_window(refusal)
            return ContextTooLong(message, status=status, request_id=error.request_id, usage=usage, window=window)
        return ModelError(message, status=status, request_id=error.request_id, usage=usage)

    def _advice(self, status: int, refusal: object) -> str:
        """What to check, for errors that settings cause."""
        match status:
            case http.HTTPStatus.UNAUTHORIZED | http.HTTPStatus.FORBIDDEN:
                sent = "check the API key" if self._api_key else "no API key was sent"
                return f" ({sent}: OPENAI_API_KEY, or RLM_SUB_API_KEY for a separate server of sub-calls)"
            case http.HTTPStatus.NOT_FOUND | http.HTTPStatus.METHOD_NOT_ALLOWED if "model" not in str(refusal).lower():
                return " (check the base URL: most servers' ends in /v1)"
        return ""

    def _connection_failure(self, error: openai.APIConnectionError) -> str:
        for cause in causes_of(error):
            match cause:
                case aiohttp.ConnectionTimeoutError():
                    return f"cannot be reached{self._route} within {CONNECT_SECONDS:g} s"
                case aiohttp.ClientConnectorCertificateError():
                    reason = getattr(cause.certificate_error, "verify_message", "") or cause.certificate_error
                    advice = environment.certificate_problem() or "Set SSL_CERT_FILE to a file with its authority."
                    return f"has a certificate that is not trusted here ({reason}). {advice.removesuffix('.')}"
                case aiohttp.ClientConnectorError():
                    return f"cannot be reached{self._route} ({cause.os_error.strerror or cause.os_error})"
                case TooLarge():
                    return f"sent more than {MAX_RESPONSE_BYTES // MIB} MiB in one response"
                case StreamCutOff():
                    return "broke off its event stream before the end of the reply"
                case TimeoutError():
                    return f"gave no complete response within {self._timeout:g} s"
        return "closed the connection before its response was complete"

    @property
    def _route(self) -> str:
        return "" if self._proxy is None else f" through the proxy of {self._proxy.variable}"

    def _message(self, predicate: str, *, path: str = "", advice: str = "") -> str:
        """Redact before clipping: half a key is a leak, too."""
        predicate, path = self._secrets.redact(predicate), self._secrets.redact(path)
        clipped = f"{predicate[:MAX_ERROR_CHARS]}…" if len(predicate) > MAX_ERROR_CHARS else predicate
        return f"The model server {self._server}{path} {clipped}{advice}"


@cache
def _tls() -> Any:
    """One TLS context for all clients: loading the certificates takes tens of milliseconds."""
    return environment.tls_context(_http.create_ssl_context)


def _is_openai(server: str) -> bool:
    host = server.partition(":")[0].lower()
    return host == "api.openai.com" or host.endswith(".api.openai.com")  # the latter in other regions


def _attempts(error: openai.APIError) -> str:
    retries = int(error.request.headers.get(RETRY_HEADER, 0))
    return f" after {retries + 1} attempts" if retries else ""
