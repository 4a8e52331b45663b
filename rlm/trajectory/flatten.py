"""Turns plain data into one searchable text, with every long string verbatim below its path. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

MAX_LINE_CHARS: Final = 200  # longer strings start on a new line, so that searches match them verbatim


def flatten(value: object, path: str = "context") -> str:
    """Render lists, dicts and scalars as text.

    Args:
        value: Plain data.
        path: Python expression of the value, such as `context["a"]`, which labels its lines.
    """
    return "\n".join(_lines(value, path))


def _lines(value: object, path: str) -> Iterator[str]:
    match value:
        case bytes():
            try:
                yield from _lines(value.decode(), path)
            except UnicodeDecodeError:
                yield f"{path}: {len(value):,} bytes (binary)"
        case str() if len(value) > MAX_LINE_CHARS or "\n" in value:
            yield f"\n{path}:\n{value}"
        case Mapping() if _has_text(value.values()):
            for key, item in value.items():
                yield from _lines(item, f"{path}[{key!r}]")
        case list() if _has_text(value):
            for number, item in enumerate(value):
                yield from _lines(item, f"{path}[{number}]")
        case _:
            yield f"{path}: {json.dumps(value, ensure_ascii=False, default=repr)}"


def _has_text(items: Iterable[object]) -> bool:
    """Whether each item needs its own lines: numbers alone share one."""
    return any(isinstance(item, str | bytes | list | Mapping) for item in items)
