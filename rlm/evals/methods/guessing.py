"""OOLONG without a model: labels guessed from words, and counted without error. Only scores above it show understanding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from rlm.evals.corpus.questions import ABBR, DESC, ENTY, HUM, LOC, NAMES, NUM, Questions
from rlm.evals.corpus.templates import parts_of
from rlm.evals.corpus.windows import read_window
from rlm.evals.task import Instance
from rlm.evals.tasks.oolong_forms import TEMPLATES, in_scope
from rlm.evals.tasks.pairs import CONDITIONS, pairs_of, query_of

_RULES: Final = tuple(  # first match wins; written from what the labels mean, not from our questions
    (label, re.compile(pattern, re.IGNORECASE))
    for label, pattern in (
        (ABBR, r"\bstands? for\b|\babbreviat|\bacronym|\bshort for\b|\bletters .* mean\b"),
        (NUM, r"^how (many|much|old|long|far|tall|fast|high|deep|big|large|often|heavy|hot|late)\b|^when\b"),
        (NUM, r"\b(year|date|number|population|percentage|distance|price|temperature|speed|age|century)\b"),
        (HUM, r"^who\b|\b(person|president|author|inventor|actor|singer|king|queen)\b"),
        (LOC, r"^where\b|\b(city|country|state|river|mountain|capital|continent|island|located)\b"),
        (DESC, r"^(why|how)\b|\b(definition|meaning|origin|difference|cause|reason|describe|explain)\b"),
        (DESC, r"^what (is|are) \w+ \?$"),
    )
)


class _Guesses(Mapping[str, str]):
    """A label for any question; an entity if no rule matches."""

    def __getitem__(self, question: str) -> str:
        return NAMES[next((label for label, pattern in _RULES if pattern.search(question)), ENTY)]

    def __iter__(self) -> Iterator[str]:
        raise TypeError("Labels are not listable: every text has one.")

    def __len__(self) -> int:
        raise TypeError("Labels are not countable: every text has one.")


GUESSES: Final = Questions(by_label={}, label_of=_Guesses())


def guess_answer(instance: Instance) -> str | None:
    """The answer to a question of `oolong` or `oolong_pairs` from guessed labels; None for other questions."""
    return answer_from_labels(instance, GUESSES)


def answer_from_labels(instance: Instance, labelled: Questions) -> str | None:
    """The answer that error-free counting gives for these labels; None for questions of other tasks."""
    if not isinstance(instance.context, str):
        return None
    for condition in CONDITIONS:
        if instance.query == query_of(condition):
            return "\n".join(pairs_of(read_window(instance.context, labelled), condition)) or "none"
    for scope, form, template in TEMPLATES:
        if (parts := parts_of(template, instance.query)) is not None:
            rows = in_scope(scope, read_window(instance.context, labelled), parts)
            return f"Answer: {form.answer(rows, parts) or 'none'}"
    return None
