"""Markdown tables of untrusted texts, and the parts that every report shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rlm._util.text import printable


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Every line has one cell per heading."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows)


def escape(text: str) -> str:
    """A text that is safe in a table cell."""
    plain = printable(text).replace("\n", " ")
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def settings_table(settings: Mapping[str, object]) -> str:
    """The settings of an evaluation that are set."""
    lines = [(name, _format(value)) for name, value in settings.items() if value not in (None, [], (), {})]
    return table(("setting", "value"), lines)


def _format(value: object) -> str:
    match value:
        case list() | tuple():
            return ", ".join(map(_format, value))
        case dict():
            return "; ".join(f"{name}: {_format(each)}" for name, each in value.items())
    return str(value)
