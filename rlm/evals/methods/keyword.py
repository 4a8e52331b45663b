"""A table lookup without a model: the baseline that shows what a task requires beyond finding a line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio

from rlm.evals.task import Instance

from .base import MethodContext, MethodOutcome
from .guessing import guess_answer

MAX_SENTENCES: Final = 20  # limit for an answer if many sentences match equally well
_WORD: Final = re.compile(r"[\w-]+")
_SENTENCE: Final = re.compile(r"[^\n]+?(?:[.?!](?=\s)|$)", re.MULTILINE)
_VALUE_PATTERNS: Final = {  # by the word in a question that asks for such a value
    "uuid": re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"),
    "number": re.compile(r"\b\d[\d,]*\b"),
    "how many": re.compile(r"\b\d[\d,]*\b"),
}
_STOP_WORDS: Final = frozenset(
    (
        *("the", "and", "are", "all", "for", "with", "from", "that", "this", "what", "which", "who", "how", "many"),
        *("mentioned", "provided", "text", "answer", "only", "give", "name", "form"),
    )
)


async def keyword(instance: Instance, ctx: MethodContext, folder: Path) -> MethodOutcome:
    """Rules on words, without a model. Shows what needs no intelligence.

    On OOLONG, it guesses each line's label from its words and counts without error. Elsewhere it answers with the sentences
    that share the most words with the question.
    """
    return await anyio.to_thread.run_sync(_answer, instance)


def _answer(instance: Instance) -> MethodOutcome:
    if (guess := guess_answer(instance)) is not None:
        return MethodOutcome(answer=guess)
    query = instance.query.casefold()
    query_words = {word for word in _WORD.findall(query) if len(word) > 2} - _STOP_WORDS
    best: list[str] = []
    most_shared = 0
    for sentence in _sentences(instance):
        shared = len(query_words.intersection(_WORD.findall(sentence.casefold())))
        if shared > most_shared:
            best, most_shared = [sentence], shared
        elif shared == most_shared and most_shared and len(best) < MAX_SENTENCES:
            best.append(sentence)
    pattern = next((pattern for name, pattern in _VALUE_PATTERNS.items() if name in query), None)
    if pattern is not None:
        best = [
            value for sentence in best for value in pattern.findall(sentence) if value.casefold() not in query_words
        ]
    return MethodOutcome(answer=", ".join(Counter(best)))


def _sentences(instance: Instance) -> Iterator[str]:
    for text in (instance.context,) if isinstance(instance.context, str) else instance.context.values():
        for match in _SENTENCE.finditer(text):
            yield match[0].strip()
