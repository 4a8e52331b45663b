"""Text and numbers as people and models read them: clipped, fenced, free of control characters, with units. Pure."""

from __future__ import annotations

import json
import re
from typing import Final

_TICKS: Final = re.compile("`+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNITS: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


# Text


def printable(text: str) -> str:
    """The text with control characters, direction overrides and lone surrogates as escapes."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def first_line(text: str, limit: int = 200) -> str:
    """The first line with content, printable, of at most `limit` characters before escaping."""
    return printable(text.lstrip()[:limit].partition("\n")[0].rstrip().replace("\t", " "))


def longest_tick_run(text: str) -> int:
    """The length of the longest run of backticks. Delimiters around the text must be longer."""
    return max((len(run) for run in _TICKS.findall(text)), default=0)


def fenced(text: str, language: str = "") -> str:
    """The text as a Markdown code block that it cannot close: its fence is longer than any inside (CommonMark)."""
    fence = "`" * max(3, longest_tick_run(text) + 1)
    return f"{fence}{language}\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}"


def tool_call(name: str, arguments: object) -> str:
    """A tool call as models write it in text. `arguments` are plain data, or JSON."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


def clip(text: str, limit: int | None) -> str:
    """Head and tail of a long text, with the number of characters left out between them."""
    if limit is None or len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]}\n[... {len(text) - limit:,} characters left out ...]\n{text[len(text) - tail :]}"


def shorten(text: str, limit: int) -> str:
    """The text in at most `limit` characters; an ellipsis marks a cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


# Numbers


def quantity(number: float, noun: str, plural_ending: str = "s") -> str:
    """`1 turn`, `1,000 turns`, `2.5 seconds`"""
    return f"{number:,.15g} {noun}{plural_ending * (number != 1)}"


def duration(seconds: float) -> str:
    """`9.1s`, `3m12s`, `2h01m`"""
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}h{minutes:02}m"


def short_number(number: float) -> str:
    """Three digits and a unit: `950`, `12.3k`, `1.20M`"""
    for size, unit in _UNITS:
        if number >= 0.9995 * size:
            amount = number / size
            return f"{amount:.{2 if amount < 9.995 else 1 if amount < 99.95 else 0}f}{unit}"
    return f"{number:.0f}"


def dollars(amount: float | None) -> str:
    """Four significant digits or whole dollars: `$0.003593`, `$1.25`, `$12,345`; `unknown` for None."""
    if amount is None:
        return "unknown"
    return f"${amount:,.0f}" if amount >= 1_000 else f"${amount:.4g}"


def short_dollars(amount: float) -> str:
    """For a narrow column: `$0`, `<$0.0001`, `$0.0042`, `$0.50`, `$1.25`"""
    if not amount:
        return "$0"
    return f"${amount:,.2f}" if amount >= 0.1 else f"${amount:.2g}" if amount >= 1e-4 else "<$0.0001"
