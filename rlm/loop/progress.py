"""Judges whether a turn makes progress. Pure. Imports types and what is below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rlm.types import CellResult

from .reply import Turn

LONG_CONTEXT_BYTES: Final = 10_000  # a shorter context may well be the answer, as in a question to repeat it


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestCells:
    """The cells of the latest turn that had any, and their results."""

    cells: Sequence[str] = ()
    results: Sequence[CellResult] = field(default=())

    def repeated_by(self, cells: Sequence[str], results: Sequence[CellResult]) -> bool:
        """Whether the same cells printed the same again. Cells that print nothing may well work through something."""
        if not cells or tuple(cells) != tuple(self.cells) or len(results) != len(self.results):
            return False
        seen = [_visible(result) for result in results]
        return any(any(texts) for _, *texts in seen) and seen == [_visible(result) for result in self.results]


def answers_whole_context(turn: Turn, *, context_bytes: int) -> bool:
    """Whether a reply gives a long `context` itself as the answer."""
    final = turn.final
    named = final is not None and final.name.strip() == "context" and (final.kind == "variable" or final.is_name)
    return named and context_bytes >= LONG_CONTEXT_BYTES


def _visible(result: CellResult) -> tuple[str, ...]:
    return result.outcome, result.stdout, result.stderr, result.error
