"""Plain data as one text that can be searched: every long string stands word for word below its place. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

LINE_CHARS: Final = 200  # a value that takes more is gone into; less is one line


def flat(value: object, place: str = "context") -> str:
    """A value of lists, dicts and scalars as text."""
    return "\n".join(_lines(value, place))


def _lines(value: object, place: str) -> Iterator[str]:
    match value:
        case bytes():
            try:
                yield from _lines(value.decode(), place)
            except UnicodeDecodeError:
                yield f"{place}: {len(value):,} bytes that are no text"
        case str() if len(value) > LINE_CHARS or "\n" in value:
            yield f"\n{place}:\n{value}"
        case Mapping() if _is_long(value.values()):
            for key, item in value.items():
                yield from _lines(item, f"{place}[{key!r}]")
        case list() if _is_long(value):
            for number, item in enumerate(value):
                yield from _lines(item, f"{place}[{number}]")
        case _:
            yield f"{place}: {json.dumps(value, ensure_ascii=False, default=repr)}"


def _is_long(items: Iterable[object]) -> bool:
    """Whether items are to have lines of their own: there is text or data in them, not numbers alone."""
    return any(isinstance(item, str | bytes | list | Mapping) for item in items)
