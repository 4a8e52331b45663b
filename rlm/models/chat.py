"""The chat-completions format: from messages to a request body, from a response body to a reply. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from rlm.types import Message, ModelReply, Usage

from .prices import Pricing

# OpenAI and most who speak its format; vLLM; llama.cpp; Anthropic; Google
_TOO_LONG: Final = re.compile(r"context[ _](length|window|size)|prompt is too long|input token count", re.IGNORECASE)
_NO_MONEY: Final = re.compile(rb'"(insufficient_quota|billing_not_active)"')  # OpenAI, of a 429 that no wait helps


class UnusableResponse(Exception):
    """A response that holds no answer.

    The text says why, and follows the server's name: "sent no choices". It may quote the response in full: redact it,
    then cut it (half a key is a leak too). `usage` is what the provider counted for it, if it did; `cut_off`: the limit on
    output tokens was used up before there was any text.
    """

    def __init__(self, words: str, *, usage: Usage | None = None, cut_off: bool = False) -> None:
        super().__init__(words)
        self.usage = usage
        self.cut_off = cut_off


def request_body(
    messages: Sequence[Message],
    *,
    model: str,
    sampling: Mapping[str, object],
    max_tokens: int | None,
    max_tokens_field: str,
) -> dict[str, object]:
    """The body of a request. Of `max_tokens` and a limit in `sampling`, the smaller one holds."""
    body = {
        "model": model,
        "messages": [{"role": message.role, "content": utf8_safe(message.content)} for message in messages],
        **sampling,
    }
    if max_tokens is not None:
        own = sampling.get(max_tokens_field)
        body[max_tokens_field] = min(own, max_tokens) if isinstance(own, int) else max_tokens
    return body


def read_reply(
    body: bytes, *, asked: Sequence[Message], model: str, pricing: Pricing, request_id: str | None
) -> ModelReply:
    """The reply that a response body holds.

    Raises:
        UnusableResponse: it holds none: not JSON, not of this format, empty, filtered or refused.
    """
    try:
        response = json.loads(body)
    except (ValueError, RecursionError):
        raise UnusableResponse(f"sent what is not JSON: {_quoted(body)}") from None
    if not isinstance(response, dict):
        raise UnusableResponse(f"sent JSON that is not a chat completion: {_quoted(body)}")
    served = response.get("model")
    names = [served, model] if isinstance(served, str) and served else [model]
    usage = _usage(response, names=names, pricing=pricing)
    try:
        text, finish_reason = _answer(response)
    except UnusableResponse as error:
        raise UnusableResponse(str(error), usage=usage, cut_off=error.cut_off) from None
    return ModelReply(
        text=text,
        usage=_estimated(asked, text) if usage is None else usage,
        model=names[0],
        finish_reason=finish_reason,
        request_id=request_id,
    )


def utf8_safe(text: str) -> str:
    """The text as UTF-8 can carry it: a surrogate pair becomes its character, a lone surrogate U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def said(body: object) -> str:
    """The words in the body of an error response, on one line and in full (see `UnusableResponse`)."""
    match body:
        case {"error": Mapping() | str() as error}:
            return said(error)
        case {"message": str(words)} | {"detail": str(words)} | str(words):
            return " ".join(words.split())
        case None:
            return ""
    return json.dumps(body, default=str, ensure_ascii=False)


def is_too_long(status: int, body: object) -> bool:
    """Whether an error response says that the conversation does not fit into the model's window."""
    return status in (400, 413, 422) and bool(_TOO_LONG.search(json.dumps(body, default=str)))


def is_out_of_money(body: bytes) -> bool:
    """Whether a refusal for too many requests means that the account has nothing left."""
    return bool(_NO_MONEY.search(body))


def _answer(response: Mapping[str, object]) -> tuple[str, str]:
    """The text and the finish reason of the first choice."""
    choices = response.get("choices")
    choice = _map(choices[0]) if isinstance(choices, list) and choices else {}
    if error := response.get("error") or choice.get("error"):
        raise UnusableResponse(f"sent an error in place of a reply: {said(error)}")
    message = _map(choice.get("message"))
    if not message:
        raise UnusableResponse("sent no choices, so there is no reply")
    reason = choice.get("finish_reason")
    finish_reason = reason if isinstance(reason, str) else "unknown"
    content, refusal = message.get("content"), message.get("refusal")
    if finish_reason == "content_filter":
        raise UnusableResponse("kept the reply back: its content filter stopped it")
    if isinstance(content, str) and content.strip():
        return utf8_safe(content), finish_reason
    if isinstance(refusal, str) and refusal:
        raise UnusableResponse(f"passed on the model's refusal: {' '.join(refusal.split())}")
    if finish_reason == "length":
        words = "sent an empty reply: the limit on output tokens was used up first, by reasoning perhaps"
        raise UnusableResponse(words, cut_off=True)
    if message.get("tool_calls"):
        raise UnusableResponse("sent a tool call in place of text, although no tools were offered")
    if content is None or isinstance(content, str):
        raise UnusableResponse(f"sent an empty reply (finish reason: {finish_reason})")
    raise UnusableResponse(f"sent a reply whose content is not text but {type(content).__name__}")


def _usage(response: Mapping[str, object], *, names: Sequence[str], pricing: Pricing) -> Usage | None:
    """What the call used, as the provider counted it; None where it did not."""
    told = _map(response.get("usage"))
    input_tokens, output_tokens = _count(told.get("prompt_tokens")), _count(told.get("completion_tokens"))
    if input_tokens is None or output_tokens is None:
        return None
    cached = _count(_map(told.get("prompt_tokens_details")).get("cached_tokens")) or 0
    reasoning = _count(_map(told.get("completion_tokens_details")).get("reasoning_tokens")) or 0
    usage = Usage(
        calls=1,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=min(cached, input_tokens),
        reasoning_tokens=min(reasoning, output_tokens),
    )
    cost = told.get("cost")  # OpenRouter and others tell what they charge
    if isinstance(cost, int | float) and not isinstance(cost, bool) and math.isfinite(cost) and cost >= 0:
        return replace(usage, cost_usd=float(cost))
    tier = response.get("service_tier")
    return replace(usage, cost_usd=pricing.cost(usage, names=names, tier=tier if isinstance(tier, str) else None))


def _estimated(asked: Sequence[Message], text: str) -> Usage:
    """For a server that does not count: one token for four characters, and an unknown cost."""
    input_tokens = sum(_estimate(message.content) for message in asked)
    return Usage(calls=1, input_tokens=input_tokens, output_tokens=_estimate(text), cost_usd=None)


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _estimate(text: str) -> int:
    return -(-len(text) // 4)


def _quoted(data: bytes) -> str:
    return repr(data.decode(errors="replace"))
