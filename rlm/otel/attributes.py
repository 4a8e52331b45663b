"""Span attributes by the semantic conventions for generative AI. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from rlm._util.text import clip
from rlm.types import Message, Usage

MAX_TEXT_CHARS: Final = 8_000  # limit of each text: receivers accept batches of a few megabytes

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value]


def usage_attributes(usage: Usage) -> Attributes:
    """Attributes for usage. Cached and reasoning tokens are included in input and output tokens."""
    attributes: dict[str, Value] = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    return attributes if usage.cost_usd is None else attributes | {"rlm.cost_usd": usage.cost_usd}


def input_messages(messages: Sequence[Message]) -> str:
    """The value of `gen_ai.input.messages`."""
    return as_json([_message(message.role, message.content) for message in messages])


def output_messages(text: str, finish_reason: str, thinking: str = "") -> str:
    """The value of `gen_ai.output.messages`."""
    return as_json([_message("assistant", text, thinking) | {"finish_reason": finish_reason}])


def _message(role: str, text: str, thinking: str = "") -> dict[str, object]:
    reasoning = [{"type": "reasoning", "content": cut(thinking)}] if thinking else []
    return {"role": role, "parts": [*reasoning, {"type": "text", "content": cut(text)}]}


def as_json(data: object) -> str:
    """Structured content as a JSON string: allowed by the conventions and accepted by all receivers."""
    return json.dumps(data, ensure_ascii=False)


def cut(text: str) -> str:
    """Head and tail of a text."""
    return clean(clip(text, MAX_TEXT_CHARS))


def clean(text: str) -> str:
    """The text without lone surrogates: a single one would make the receiver reject the whole batch."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
