"""The chat-completions format: builds request bodies, reads response bodies. Pure. Imports prices and types."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from rlm.types import Message, ModelReply, Usage

from .prices import Pricing

# OpenAI and most compatible servers; vLLM; llama.cpp; Anthropic; Google
_TOO_LONG: Final = re.compile(r"context[ _](length|window|size)|prompt is too long|input token count", re.IGNORECASE)
_NO_CREDIT: Final = re.compile(
    rb'"(insufficient_quota|billing_not_active)"'
)  # in a 429 of OpenAI that no waiting resolves


class UnusableResponse(Exception):
    """A response without an answer.

    The message is a predicate for the server's name: "sent no choices". It may quote the whole response: redact it
    first, then clip it (half a key is a leak, too).

    Attributes:
        usage: the provider's count, if any.
        finish_reason: the provider's word, or `refusal`, if the response is a reply without usable text. Else None.
        text: what stood in place of text: a tool call, a refusal.
        thinking: reasoning that came with the reply.
    """

    def __init__(
        self,
        message: str,
        *,
        usage: Usage | None = None,
        finish_reason: str | None = None,
        text: str = "",
        thinking: str = "",
    ) -> None:
        super().__init__(message)
        self.usage = usage
        self.finish_reason = finish_reason
        self.text = text
        self.thinking = thinking


def request_body(
    messages: Sequence[Message],
    *,
    model: str,
    sampling: Mapping[str, object],
    max_tokens: int | None,
    max_tokens_field: str,
) -> dict[str, object]:
    """Build the body of a request. The smaller of `max_tokens` and a limit in `sampling` applies."""
    body = {
        "model": model,
        "messages": [{"role": message.role, "content": utf8_safe(message.content)} for message in messages],
        **sampling,
    }
    if max_tokens is not None:
        configured = sampling.get(max_tokens_field)
        body[max_tokens_field] = min(configured, max_tokens) if isinstance(configured, int) else max_tokens
    return body


def read_reply(
    body: bytes, *, messages: Sequence[Message], model: str, pricing: Pricing, request_id: str | None
) -> ModelReply:
    """Read the reply from a response body.

    Args:
        body: body of the response.
        messages: messages of the request, to estimate the usage if the server does not count it.
        model: the model that the request named.
        pricing: prices the usage if the server does not.
        request_id: ID in the response, if the server sent one.

    Raises:
        UnusableResponse: the body is not JSON, not of this format, empty, filtered or a refusal.
    """
    try:
        response = json.loads(body)
    except (ValueError, RecursionError):
        raise UnusableResponse(f"sent invalid JSON: {_quoted(body)}") from None
    if not isinstance(response, dict):
        raise UnusableResponse(f"sent JSON that is not a chat completion: {_quoted(body)}")
    served = response.get("model")
    names = [served, model] if isinstance(served, str) and served else [model]  # the server's own name comes first
    usage = _usage(response, names=names, pricing=pricing)
    try:
        text, finish_reason = _answer(response)
    except UnusableResponse as error:
        error.usage = usage
        raise
    return ModelReply(
        text=text,
        usage=_estimated(messages, text) if usage is None else usage,
        model=names[0],
        finish_reason=finish_reason,
        request_id=request_id,
    )


def utf8_safe(text: str) -> str:
    """The text without surrogates: a pair becomes its character, a lone one U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def error_message(body: object) -> str:
    """The message in the body of an error response, on one line. Not clipped: see `UnusableResponse`."""
    match body:
        case {"error": Mapping() | str() as error}:
            return error_message(error)
        case {"message": str(message)} | {"detail": str(message)} | str(message):
            return " ".join(message.split())
        case None:
            return ""
    return json.dumps(body, default=str, ensure_ascii=False)


def is_too_long(status: int, body: object) -> bool:
    """Whether an error response says that the conversation exceeds the model's window."""
    return status in (400, 413, 422) and bool(_TOO_LONG.search(json.dumps(body, default=str)))


def is_out_of_credit(body: bytes) -> bool:
    """Whether a 429 response means that the account has no credit left."""
    return bool(_NO_CREDIT.search(body))


def _answer(response: Mapping[str, object]) -> tuple[str, str]:
    """The text and the finish reason of the first choice."""
    choices = response.get("choices")
    choice = _map(choices[0]) if isinstance(choices, list) and choices else {}
    if error := response.get("error") or choice.get("error"):
        raise UnusableResponse(f"sent an error instead of a reply: {error_message(error)}")
    message = _map(choice.get("message"))
    if not message:
        raise UnusableResponse("sent no choices")
    reason = choice.get("finish_reason")
    finish_reason = reason if isinstance(reason, str) else "unknown"
    content, refusal = message.get("content"), message.get("refusal")
    if finish_reason == "content_filter":
        raise UnusableResponse("withheld the reply: its content filter blocked it", finish_reason=finish_reason)
    if isinstance(content, str) and content.strip():
        return utf8_safe(content), finish_reason
    if isinstance(refusal, str) and refusal:
        said = f"reported the model's refusal: {' '.join(refusal.split())}"
        raise UnusableResponse(said, finish_reason="refusal", text=utf8_safe(refusal))
    if finish_reason == "length":
        text = "sent an empty reply: the output token limit was reached first, perhaps by reasoning"
        raise UnusableResponse(text, finish_reason=finish_reason)
    if message.get("tool_calls"):
        said = "sent a tool call instead of text, although the request offered no tools"
        raise UnusableResponse(said, finish_reason="tool_calls")
    if content is None or isinstance(content, str):
        raise UnusableResponse(f"sent an empty reply (finish reason: {finish_reason})", finish_reason=finish_reason)
    raise UnusableResponse(f"sent a reply with content of type {type(content).__name__} instead of text")


def _usage(response: Mapping[str, object], *, names: Sequence[str], pricing: Pricing) -> Usage | None:
    """The provider's count of a call's usage; None if it sent none."""
    counts = _map(response.get("usage"))
    input_tokens, output_tokens = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    if input_tokens is None or output_tokens is None:
        return None
    cached = _count(_map(counts.get("prompt_tokens_details")).get("cached_tokens")) or 0
    reasoning = _count(_map(counts.get("completion_tokens_details")).get("reasoning_tokens")) or 0
    usage = Usage(
        calls=1,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=min(cached, input_tokens),
        reasoning_tokens=min(reasoning, output_tokens),
    )
    cost = counts.get("cost")  # OpenRouter and others report what they charge
    if isinstance(cost, int | float) and not isinstance(cost, bool) and math.isfinite(cost) and cost >= 0:
        return replace(usage, cost_usd=float(cost))
    tier = response.get("service_tier")
    return replace(usage, cost_usd=pricing.cost(usage, names=names, tier=tier if isinstance(tier, str) else None))


def _estimated(messages: Sequence[Message], text: str) -> Usage:
    """The usage on a server that does not count: four characters per token, unknown cost."""
    input_tokens = sum(_estimate(message.content) for message in messages)
    return Usage(calls=1, input_tokens=input_tokens, output_tokens=_estimate(text), cost_usd=None)


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _estimate(text: str) -> int:
    return -(-len(text) // 4)


def _quoted(data: bytes) -> str:
    return repr(data.decode(errors="replace"))
