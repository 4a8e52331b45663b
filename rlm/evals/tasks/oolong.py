"""OOLONG-synth (arXiv 2511.02817) over questions in six classes: statistics of labels that the text does not show."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from rlm.evals.corpus.dates import MONTHS
from rlm.evals.corpus.questions import LABELS, Questions
from rlm.evals.corpus.seeded_random import SeededRandom
from rlm.evals.corpus.templates import parts_of
from rlm.evals.corpus.windows import make_window, read_window, render, show_day
from rlm.evals.task import Instance

from .oolong_forms import TEMPLATES, Lines, in_scope

QUESTIONS_PER_WINDOW: Final = 25
MAX_SCOPE_USERS: Final = 20  # users that a question names
MAX_ATTEMPTS: Final = 10  # draws of a question's parts until it has a single answer


def _draw(rows: Lines, users: list[str], times: list[int], rng: SeededRandom) -> dict[str, str]:
    """Parts for any question on these lines. Draws all of them, so that none depends on which are used.

    `times` lists how often the dates of these lines occur.
    """
    a, b = rng.sample(LABELS, 2)
    first, second = rng.sample(users, 2) if len(users) > 1 else (users[0], users[0])
    named = rng.sample(users, min(rng.between(1, MAX_SCOPE_USERS), len(users)))
    start, end = sorted(rng.choice(rows).day for _ in range(2))
    return {
        "label": rng.choice(LABELS),
        "a": a,
        "b": b,
        "first": first,
        "second": second,
        "users": ", ".join(named),
        "month": rng.choice(MONTHS),
        "start": show_day(start),
        "end": show_day(end),
        "time": rng.choice(rows).day.isoformat(),
        "n": str(rng.choice(times)),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class OolongQuestion:
    """A question about a window."""

    query: str
    answer: str
    scorer: str


@functools.lru_cache(maxsize=4)
def window_questions(questions: Questions, length: int, seed: int, number: int) -> tuple[OolongQuestion, ...]:
    """The questions about a window: each template once, in random order, if it has a fair question on these lines.

    If too few templates have one, they repeat with other parts.
    """
    rows = make_window(questions, length, seed, number)
    rng = SeededRandom("oolong questions", length, seed, number)
    users = list(dict.fromkeys(row.user for row in rows))
    times = sorted(set(Counter(row.day for row in rows).values()))
    found: dict[str, OolongQuestion] = {}
    order = rng.shuffled(TEMPLATES)
    while len(found) < QUESTIONS_PER_WINDOW:
        for scope, form, text in order:
            for _ in range(MAX_ATTEMPTS):
                parts = _draw(rows, users, times, rng)
                answer, query = form.answer(in_scope(scope, rows, parts), parts), text.format(**parts)
                if answer is not None and query not in found:
                    found[query] = OolongQuestion(query=query, answer=answer, scorer=form.scorer)
                    break
    return tuple(found.values())[:QUESTIONS_PER_WINDOW]


@dataclass(frozen=True, slots=True, kw_only=True)
class Oolong:
    """Instances 0 to 24 ask about one window, 25 to 49 about the next, and so on.

    Attributes:
        name: name in the registry.
        questions: makes the labelled questions on first use, because that takes a moment.
    """

    name: str
    questions: Callable[[], Questions]

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """See `Task`."""
        number, place = divmod(index, QUESTIONS_PER_WINDOW)
        asked = window_questions(self.questions(), length, seed, number)[place]
        return Instance(
            task=self.name,
            length=length,
            seed=seed,
            index=index,
            context=render(make_window(self.questions(), length, seed, number)),
            query=asked.query,
            answers=(asked.answer,),
            scorer=asked.scorer,
        )

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """See `Task`."""
        assert isinstance(context, str)
        rows = read_window(context, self.questions())
        for scope, form, text in TEMPLATES:
            if (parts := parts_of(text, query)) is not None:
                answer = form.answer(in_scope(scope, rows, parts), parts)
                assert answer is not None
                return (answer,)
        raise ValueError(f"Not a question of {self.name}: {query}")
