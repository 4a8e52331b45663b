"""The chat-completions format: builds request bodies, reads response bodies. Pure. Imports prices and types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rlm._util.text import tool_call
from rlm.types import Message, ModelReply, Usage

from .prices import Pricing
from .refusals import MAX_DEPTH, WINDOW_EXCEEDED, error_message, nests_little, says_error
from .stream import StreamCutOff, decode

MAX_TOKENS: Final = 10_000_000  # of one call: no window is larger, so a larger count is wrong
MAX_USD: Final = 1e9  # the same for its cost
_CUT_OFF: Final = frozenset({"max_tokens", "max_output_tokens", "model_length", WINDOW_EXCEEDED})
_TOOL_CALL: Final = frozenset({"tool_use", "tool_call", "function_call"})
_THINKING_PARTS: Final = ("thinking", "reasoning", "thought", "summary")  # how their types begin
_THINKING_FIELDS: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_details")  # of a message


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
        "stream": False,  # several servers stream unless told not to
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
        response = decode(body)
    except StreamCutOff:
        raise UnusableResponse("broke off its event stream before the end of the reply") from None
    except ValueError:
        text = body.decode(errors="replace")
        page = error_message(text)
        if page.startswith("an HTML page"):
            raise UnusableResponse(f"sent {page}, instead of JSON: check the base URL") from None
        raise UnusableResponse(f"sent invalid JSON: {text!r}") from None
    if not isinstance(response, dict):
        raise UnusableResponse(f"sent JSON that is not a chat completion: {body.decode(errors='replace')!r}")
    served = response.get("model")
    names = [served, model] if isinstance(served, str) and served else [model]  # the server's own name comes first
    try:
        answer = _answer(response)
    except UnusableResponse as error:
        error.usage = _usage(response, messages=messages, written=error.thinking, names=names, pricing=pricing)
        raise
    written = f"{answer.text}{answer.thinking}"
    usage = _usage(response, messages=messages, written=written, names=names, pricing=pricing)
    return ModelReply(
        text=answer.text,
        usage=_estimated(messages, written) if usage is None else usage,
        model=names[0],
        finish_reason=answer.finish_reason,
        request_id=request_id,
        thinking=answer.thinking,
    )


def counted_usage(response: object, *, messages: Sequence[Message], model: str, pricing: Pricing) -> Usage | None:
    """What a server counted for a response without a reply; None if it counted nothing."""
    if not isinstance(response, dict):
        return None
    return _usage(response, messages=messages, written="", names=[model], pricing=pricing)


def utf8_safe(text: str) -> str:
    """The text without surrogates: a pair becomes its character, a lone one U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    text: str
    thinking: str
    finish_reason: str


def _answer(response: Mapping[str, object]) -> _Answer:
    """The first choice: its text, thinking and finish reason. Raises UnusableResponse if it has no text."""
    choices = response.get("choices")
    choice = _map(choices[0]) if isinstance(choices, list) and choices else {}
    if error := response.get("error") or choice.get("error"):
        raise UnusableResponse(f"sent an error instead of a reply: {error_message(error)}")
    message = choice.get("message")
    if not message and isinstance(choice.get("text"), str):
        message = {"content": choice["text"]}  # of the older completions
    if not isinstance(message, dict) and "done" in response and "message" in response:
        raise UnusableResponse("sent a reply in Ollama's own format: use a base URL that ends in /v1")
    if not isinstance(message, dict) and says_error(response):
        raise UnusableResponse(f"sent an error instead of a reply: {error_message(response)}")
    if not choice:
        raise UnusableResponse("sent no choices")
    if not isinstance(message, dict):
        message = {}  # a choice without a message is an empty reply
    finish_reason = _finish_reason(choice.get("finish_reason"))
    content = message.get("content")
    text, thinking = _text(content), _thinking(message)
    calls = _tool_calls(message)
    if finish_reason == "content_filter":
        raise UnusableResponse("withheld the reply: its content filter blocked it", finish_reason=finish_reason)
    if text.strip():
        return _Answer(text=text, thinking=thinking, finish_reason=finish_reason)
    if refusal := _refusal(message):
        predicate, finish_reason, text = (
            f"reported the model's refusal: {' '.join(refusal.split())}",
            "refusal",
            refusal,
        )
    elif calls or message.get("tool_calls"):
        predicate = "sent a tool call instead of text, although the request offered no tools"
        finish_reason, text = "tool_calls", "\n".join(calls)
    elif finish_reason == "length":
        predicate, text = "sent an empty reply: the output token limit was reached first, perhaps by reasoning", ""
    elif content is None or isinstance(content, str) or _parts(content):
        predicate, text = f"sent an empty reply (finish reason: {finish_reason})", ""
    else:
        predicate, text = f"sent a reply with content of type {type(content).__name__} instead of text", ""
    raise UnusableResponse(predicate, finish_reason=finish_reason, text=text, thinking=thinking)


def _finish_reason(reason: object) -> str:
    """The provider's word, and for a cut-off reply or a tool call always the same one."""
    if not isinstance(reason, str) or not reason:
        return "unknown"
    if reason.lower() in _CUT_OFF:
        return "length"
    return "tool_calls" if reason.lower() in _TOOL_CALL else reason


def _text(content: object) -> str:
    """What a content says: itself, or its parts of text."""
    if isinstance(content, str):
        return utf8_safe(content)
    return "".join(text for kind, text in _parts(content) if kind == "text")


def _thinking(message: Mapping[str, object]) -> str:
    """The reasoning of a message, which servers send in fields of several names, often in two at once."""
    for name in _THINKING_FIELDS:
        value = message.get(name)
        if thinking := (utf8_safe(value) if isinstance(value, str) else _all_texts(value)).strip():
            return thinking
    content = message.get("content")
    parts = [] if isinstance(content, str) else [text for kind, text in _parts(content) if kind == "thinking"]
    return "".join(parts).strip()


def _parts(content: object, depth: int = 0) -> list[tuple[str, str]]:
    """Kind (`text`, `thinking`, `refusal`) and text of each part of a content. Other parts are left out."""
    parts: list[tuple[str, str]] = []
    if depth > MAX_DEPTH:
        return parts
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            parts.append(("text", utf8_safe(part)))
        if not isinstance(part, dict):
            continue
        kind = str(part.get("type") or "text").lower()
        if (
            kind.startswith(_THINKING_PARTS)
            or part.get("thought") is True
            or ("thinking" in part and "text" not in part)
        ):
            parts.append(("thinking", _all_texts(part)))
        elif kind == "refusal":
            parts.append(("refusal", _all_texts(part)))
        elif kind in ("text", "output_text", "input_text", "markdown", "content", "message"):
            inner = next((part[name] for name in ("text", "content", "parts", "value") if part.get(name)), None)
            parts += [("text", utf8_safe(inner))] if isinstance(inner, str) else _parts(inner, depth + 1)
    return parts


def _all_texts(value: object, depth: int = 0) -> str:
    """All texts within a part of reasoning."""
    if depth > MAX_DEPTH:
        return ""
    if isinstance(value, str):
        return utf8_safe(value)
    if isinstance(value, list):
        return "".join(_all_texts(item, depth + 1) for item in value)
    if isinstance(value, dict):
        names = ("thinking", "reasoning", "text", "summary", "content", "refusal", "value")
        return next((text for name in names if (text := _all_texts(value.get(name), depth + 1))), "")
    return ""


def _refusal(message: Mapping[str, object]) -> str:
    refusal = message.get("refusal")
    if isinstance(refusal, str):
        return utf8_safe(refusal).strip()
    content = message.get("content")
    return "".join(text for kind, text in _parts(content) if kind == "refusal").strip()


def _tool_calls(message: Mapping[str, object]) -> list[str]:
    """The tool calls of a message, each as models write it in text: a reply may hold its code in one."""
    return [tool_call(name, arguments) for name, arguments in _named_calls(message)]


def _named_calls(message: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    calls = message.get("tool_calls")
    listed = calls if isinstance(calls, list) else [calls]
    content = message.get("content")
    used = [part for part in content if _map(part).get("type") == "tool_use"] if isinstance(content, list) else []
    for call in [*listed, message.get("function_call"), *used]:
        outer = _map(call)
        if not outer:
            continue
        inner = _map(outer.get("function")) or _map(outer.get("custom")) or outer
        name = inner.get("name")
        arguments = inner.get("arguments", inner.get("input", inner.get("parameters")))
        if isinstance(arguments, str):
            arguments = _decoded(arguments)
        yield utf8_safe(name) if isinstance(name, str) else "", {} if arguments is None else arguments


def _decoded(arguments: str) -> object:
    try:
        decoded = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return utf8_safe(arguments)
    return decoded if nests_little(decoded) else utf8_safe(arguments)


def _usage(
    response: Mapping[str, object],
    *,
    messages: Sequence[Message],
    written: str,
    names: Sequence[str],
    pricing: Pricing,
) -> Usage | None:
    """The provider's count of a call's usage; None if it sent none, or an impossible one.

    A missing count, or an impossible 0, is derived from the total or estimated. Its cost is unknown unless the provider
    reports it.
    """
    counts = _map(response.get("usage"))
    sent = {
        "input": [counts[name] for name in ("prompt_tokens", "input_tokens") if counts.get(name) is not None],
        "output": [counts[name] for name in ("completion_tokens", "output_tokens") if counts.get(name) is not None],
    }
    values = {name: _count(given[0]) if given else None for name, given in sent.items()}
    if any(given and values[name] is None for name, given in sent.items()):
        return None  # a count that is no number of tokens says nothing of the other one
    estimate = _estimated(messages, written)
    input_tokens, output_tokens = values["input"] or None, values["output"]
    if output_tokens == 0 and written:
        output_tokens = None
    if input_tokens is None and output_tokens is None and not any(sent.values()):
        return None
    is_counted = input_tokens is not None and output_tokens is not None
    total = _count(counts.get("total_tokens"))
    if not is_counted and total is not None and total > (input_tokens or output_tokens or 0) > 0:
        input_tokens = total - (output_tokens or 0) if input_tokens is None else input_tokens
        output_tokens = total - input_tokens
        is_counted = True
    usage = Usage(
        calls=1,
        input_tokens=estimate.input_tokens if input_tokens is None else input_tokens,
        output_tokens=estimate.output_tokens if output_tokens is None else output_tokens,
        cost_usd=None,
    )
    cached = _count(_map(counts.get("prompt_tokens_details")).get("cached_tokens")) or 0
    reasoning = _count(_map(counts.get("completion_tokens_details")).get("reasoning_tokens")) or 0
    usage = replace(
        usage,
        cached_tokens=min(cached, usage.input_tokens),
        reasoning_tokens=min(reasoning, usage.output_tokens),
    )
    cost = counts.get("cost")  # OpenRouter and others report what they charge
    if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost <= MAX_USD:  # NaN is not
        return replace(usage, cost_usd=float(cost))
    tier = response.get("service_tier")
    if not is_counted:
        return usage
    return replace(usage, cost_usd=pricing.cost(usage, names=names, tier=tier if isinstance(tier, str) else None))


def _estimated(messages: Sequence[Message], text: str) -> Usage:
    """The usage on a server that does not count: four characters per token, unknown cost."""
    input_tokens = sum(_estimate(message.content) for message in messages)
    return Usage(calls=1, input_tokens=input_tokens, output_tokens=_estimate(text), cost_usd=None)


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    """A token count, which some servers send as text or with a decimal point. None if invalid."""
    if isinstance(value, str):
        value = int(value) if re.fullmatch(r"[0-9]{1,9}", value.strip()) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= MAX_TOKENS else None  # type: ignore[operator, return-value]


def _estimate(text: str) -> int:
    return -(-len(text) // 4)
