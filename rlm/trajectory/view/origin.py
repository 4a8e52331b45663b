"""Where an answer came from: the cell or the reply that gave it, and where its words were first read. Pure.

A match of words is a fact about texts, not a proof of cause: the page says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rlm.events import ModelReplied
from rlm.trajectory.context import Context, Slice
from rlm.trajectory.trajectory import Cell, Node, Record

MAX_PIECES: Final = 12  # of an answer that are looked for

_WORD: Final = re.compile(r"[^\s,;:=(){}\[\]\"'`]{3,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """Where a piece of an answer was first read: in the answer of a call (`node`), or in the output of a cell.

    `offset` counts characters of that text; `context` has the offsets in the context, the nearest first to the slice that
    the call was given; it is empty where the context is not known or does not hold the piece.
    """

    piece: str
    node: str | None
    cell: int
    offset: int
    context: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The turn that gave an answer, its cell (0: the reply's own text), and where the answer's pieces were first read."""

    turn: int
    cell: int
    finds: tuple[Find, ...]


def origin_of(record: Record, node: Node, context: Context | None) -> Origin | None:
    """Where the answer of an RLM came from; None while there is no answer, or where nothing tells. `context` is its own."""
    if node.ok is not True or not node.answer:
        return None
    given = _given(node, node.answer)
    if given is None:
        return None
    finds = tuple(
        find for piece in pieces_of(node.answer) if (find := _first(record, node, piece, context)) is not None
    )
    return Origin(turn=given[0], cell=given[1], finds=finds)


def pieces_of(answer: str) -> list[str]:
    """What is looked for: the answer itself if it is short, and its words, the telling ones (with digits, long) first."""
    words = dict.fromkeys(_WORD.findall(answer[:10_000]))
    telling = sorted(words, key=lambda word: (not any(map(str.isdigit, word)), -len(word)))
    whole = answer.strip()
    short = [whole] if 0 < len(whole) <= 60 and "\n" not in whole else []
    return list(dict.fromkeys([*short, *telling]))[:MAX_PIECES]


def _given(node: Node, answer: str) -> tuple[int, int] | None:
    for turn in reversed(node.turns):
        for entry in reversed(turn.entries):
            if isinstance(entry, Cell) and entry.result is not None and entry.result.answer == answer:
                return turn.number, entry.number
        if any(isinstance(entry, ModelReplied) and answer in entry.text for entry in turn.entries):
            return turn.number, 0
    return None


def _first(record: Record, node: Node, piece: str, context: Context | None) -> Find | None:
    for source, cell, text in _read_by(record, node):
        offset = text.find(piece)
        if offset >= 0:
            given = () if source is None or context is None else slices_of(record.nodes[source], context)
            places = () if context is None else context.places(piece, given)
            return Find(piece=piece, node=source, cell=cell, offset=offset, context=places)
    return None


def slices_of(node: Node, context: Context) -> Iterator[Slice]:
    """What a call was given of its caller's context: as a context of its own, and in its prompt."""
    if node.recursive and (own := context.begun(*node.context_ends, node.context_size or 0)) is not None:
        yield own
    yield from context.slices(node.prompt or "")


def _read_by(record: Record, node: Node) -> Iterator[tuple[str | None, int, str]]:
    """What the RLM's code and model could read, in order: the answers of a cell's calls, then the cell's output."""
    for cell in node.cells:
        for name in cell.calls:
            called = record.nodes[name]
            if called.ok and called.answer:
                yield name, cell.number, called.answer
        if cell.result is not None:
            yield None, cell.number, cell.result.stdout
