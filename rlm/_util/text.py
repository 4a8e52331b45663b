"""Text as people and models are shown it: clipped, fenced, without control characters. Pure."""

from __future__ import annotations

import re
from typing import Final

_TICKS: Final = re.compile("`+")


def fenced(text: str, language: str = "") -> str:
    """Text as a block that ends where it ends: its fence is longer than any run of the same mark inside (CommonMark)."""
    longest = max((len(run) for run in _TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}"


def clip(text: str, limit: int | None) -> str:
    """Head and tail of a long text, with the number of characters left out between them."""
    if limit is None or len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]}\n[... {len(text) - limit:,} characters left out ...]\n{text[len(text) - tail :]}"


_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters, direction overrides and lone surrogates shown as escapes."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
