"""Tables in Markdown, of texts that are hostile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rlm._util.text import printable


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Headings, and lines of as many cells."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows)


def escaped(text: str) -> str:
    """A text as it may stand in a cell of a table."""
    plain = printable(text).replace("\n", " ")
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
