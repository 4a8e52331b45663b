"""Formats the results of cells for the model. Pure. Imports types and text helpers."""

from __future__ import annotations

from collections.abc import Sequence

from rlm._util.text import clip, fenced
from rlm.types import CellResult


def observation(results: Sequence[CellResult], *, limit: int | None) -> str:
    """Describe the cells of a turn. `limit` bounds the characters of each output; None is no limit."""
    many = len(results) > 1
    return "\n\n".join(
        (f"Cell {number} of {len(results)}:\n" if many else "") + describe(result, limit=limit)
        for number, result in enumerate(results, 1)
    )


def describe(result: CellResult, *, limit: int | None) -> str:
    """Describe one cell: its output, its error, and whether its variables persist. `limit` is as in `observation`.

    Text that the cell controls is between fences that it cannot close, so that forged instructions read as data.
    """
    parts = []
    if result.stdout:
        parts.append("Output:\n" + fenced(clip(result.stdout, limit)))
    if result.stderr:
        parts.append("Standard error:\n" + fenced(clip(result.stderr, limit)))
    match result.outcome:
        case "ok":
            if not parts:
                parts.append("The cell ran and printed nothing.")
        case "error":
            parts.append(
                "The cell ended with an exception; what it assigned before is kept:\n"
                + fenced(clip(result.error, limit))
            )
        case "timeout" | "died":
            parts.append(f"{clip(result.error, limit)}\nAll variables are as they were before this cell.")
        case "lost":
            parts.append(clip(result.error, limit))
    return "\n".join(parts)
