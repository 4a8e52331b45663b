"""Finds the origin of an answer: the cell or reply that gave it, and where its words first appeared. Pure.

Equal words are a hint, not proof of a cause. The page says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rlm.events import ModelReplied
from rlm.trajectory.context_search import ContextSlice, SearchableContext
from rlm.trajectory.trajectory import Trajectory, TrajectoryCell, TrajectoryNode

MAX_PIECES: Final = 12  # pieces per answer: nobody reads a table with more rows
MAX_WHOLE_CHARS: Final = 60  # a longer answer rarely appears verbatim before the model gives it
MAX_ANSWER_CHARS: Final = 10_000  # start of an answer that is split into pieces

_WORD: Final = re.compile(r"[^\s,;:=(){}\[\]\"'`]{3,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceSource:
    """Where a piece of an answer first appeared.

    Attributes:
        piece: The words.
        node: ID of the call whose answer held it, or None for the output of a cell.
        cell: Number of the cell that made the call or printed the output.
        offset: Offset of the piece in that answer or output, in characters.
        context: Offsets of the piece in the context, empty if unknown.
    """

    piece: str
    node: str | None
    cell: int
    offset: int
    context: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOrigin:
    """Where an answer came from.

    Attributes:
        turn: Number of the turn that gave it.
        cell: Number of the cell that gave it, or 0 for the text of the reply.
        sources: Where its pieces first appeared.
    """

    turn: int
    cell: int
    sources: tuple[PieceSource, ...]


def find_origin(trajectory: Trajectory, node: TrajectoryNode, context: SearchableContext | None) -> AnswerOrigin | None:
    """Find where the answer of an RLM came from.

    Args:
        trajectory: The run.
        node: An RLM.
        context: The RLM's own context, if known.

    Returns:
        None without an answer, or if no turn holds it.
    """
    if node.ok is not True or not node.answer:
        return None
    place = _answering_place(node, node.answer)
    if place is None:
        return None
    turn, cell = place
    pieces = pieces_of(node.answer)
    sources = [source for piece in pieces if (source := _first_source(trajectory, node, piece, context)) is not None]
    return AnswerOrigin(turn=turn, cell=cell, sources=tuple(sources))


def pieces_of(answer: str) -> list[str]:
    """The pieces to search for: a short answer as a whole, then its words, distinctive ones (with digits, long) first."""
    words = dict.fromkeys(_WORD.findall(answer[:MAX_ANSWER_CHARS]))
    distinctive_first = sorted(words, key=lambda word: (not any(map(str.isdigit, word)), -len(word)))
    whole = answer.strip()
    short = [whole] if 0 < len(whole) <= MAX_WHOLE_CHARS and "\n" not in whole else []
    return list(dict.fromkeys([*short, *distinctive_first]))[:MAX_PIECES]


def slices_for(node: TrajectoryNode, context: SearchableContext) -> Iterator[ContextSlice]:
    """The parts of its caller's context that a call received, as its own context and in its prompt."""
    if node.recursive and (own := context.slice_between(*node.context_ends, node.context_size or 0)) is not None:
        yield own
    yield from context.slices(node.prompt or "")


def _answering_place(node: TrajectoryNode, answer: str) -> tuple[int, int] | None:
    """The numbers of the turn and the cell (0: the reply) that gave the answer."""
    for turn in reversed(node.turns):
        for entry in reversed(turn.entries):
            if isinstance(entry, TrajectoryCell) and entry.result is not None and entry.result.answer == answer:
                return turn.number, entry.number
        if any(isinstance(entry, ModelReplied) and answer in entry.text for entry in turn.entries):
            return turn.number, 0
    return None


def _first_source(
    trajectory: Trajectory, node: TrajectoryNode, piece: str, context: SearchableContext | None
) -> PieceSource | None:
    for source, cell, text in _readable_texts(trajectory, node):
        offset = text.find(piece)
        if offset >= 0:
            slices = () if source is None or context is None else slices_for(trajectory.nodes[source], context)
            offsets = () if context is None else context.offsets_of(piece, slices)
            return PieceSource(piece=piece, node=source, cell=cell, offset=offset, context=offsets)
    return None


def _readable_texts(trajectory: Trajectory, node: TrajectoryNode) -> Iterator[tuple[str | None, int, str]]:
    """The texts that the RLM's code and model could read, in order: answers to a cell's calls, then the cell's output."""
    for cell in node.cells:
        for name in cell.calls:
            called = trajectory.nodes[name]
            if called.ok and called.answer:
                yield name, cell.number, called.answer
        if cell.result is not None:
            yield None, cell.number, cell.result.stdout
