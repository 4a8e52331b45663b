"""A table lookup without any model: the baseline that says what a task asks beyond finding a line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio

from rlm.evals.task import Instance

from .base import MethodContext, Outcome
from .guessing import guessed

_WORD: Final = re.compile(r"[\w-]+")
_UNIT: Final = re.compile(r"[^\n]+?(?:[.?!](?=\s)|$)", re.MULTILINE)
_SHAPES: Final = {
    "uuid": re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"),
    "number": re.compile(r"\b\d[\d,]*\b"),
    "how many": re.compile(r"\b\d[\d,]*\b"),
}
_COMMON: Final = frozenset(
    (
        *("the", "and", "are", "all", "for", "with", "from", "that", "this", "what", "which", "who", "how", "many"),
        *("mentioned", "provided", "text", "answer", "only", "give", "name", "form"),
    )
)


async def keyword(instance: Instance, means: MethodContext, folder: Path) -> Outcome:
    """No model at all: rules on words. Shows what needs no intelligence.

    On OOLONG, labels are guessed from the words of each line and counted rightly; elsewhere the answer is the sentences that
    share the most words with the question.
    """
    return await anyio.to_thread.run_sync(_keyword, instance)


def _keyword(instance: Instance) -> Outcome:
    if (guess := guessed(instance)) is not None:
        return Outcome(answer=guess)
    query = instance.query.casefold()
    asked = {word for word in _WORD.findall(query) if len(word) > 2} - _COMMON
    best: list[str] = []
    most = 0
    for unit in _units(instance):
        shared = len(asked.intersection(_WORD.findall(unit.casefold())))
        if shared > most:
            best, most = [unit], shared
        elif shared == most and most and len(best) < 20:
            best.append(unit)
    shape = next((shape for name, shape in _SHAPES.items() if name in query), None)
    if shape is not None:
        best = [found for unit in best for found in shape.findall(unit) if found.casefold() not in asked]
    return Outcome(answer=", ".join(Counter(best)))


def _units(instance: Instance) -> Iterator[str]:
    for text in (instance.context,) if isinstance(instance.context, str) else instance.context.values():
        for found in _UNIT.finditer(text):
            yield found[0].strip()
