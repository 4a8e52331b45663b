"""OOLONG's windows: dated lines with users' questions, whose labels are hidden.

Generates, renders and parses windows. As in OOLONG, `length` determines the number of lines.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import date, timedelta
from math import ceil
from typing import Final

from rlm.errors import ConfigError

from .dates import MONTHS
from .questions import LABELS, Questions
from .seeded_random import SeededRandom

FILL_SHARE, FIXED_TOKENS, LINE_TOKENS = 0.95, 450, 39  # lines = (0.95 length - 450) / 39: 188 at 2^13, 787 at 2^15
FIRST_DAY, DAYS = date(2022, 2, 1), 1216  # the last day is 31 May 2025
FREQUENT_USER_SHARE, FREQUENT_LINE_SHARE = 0.2, 0.8  # a fifth of the users write four fifths of the lines
LINES_PER_USER, MIN_USERS, MAX_USERS = 8, 4, 500  # our choice: MAX_USERS bounds the pairs of `oolong_pairs`
MIN_LINES: Final = 8

_LINE: Final = re.compile(r"^Date: (\w{3}) (\d\d), (\d{4}) \|\| User: (\d+) \|\| Instance: (.+)$", re.MULTILINE)
_INTRODUCTION: Final = (
    "The following lines contain {count} general-knowledge questions, one per line. Each line has a date, the ID of a user, "
    "and a question. Each question asks for an answer of one of 6 kinds, which are its labels: {labels}. The labels are not "
    "given: they follow from what a question means. You will be asked about statistics of the labels, users and dates over "
    "all {count} lines. Do not guess or estimate: work out the exact answer from every line."
)
_RECALL: Final = (
    "Recall: the lines above contain {count} questions, each with one of the labels {labels}. Do not guess or estimate: "
    "work out the exact answer from every line."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLine:
    """One line of a window, with its hidden label."""

    day: date
    user: str
    question: str
    label: str


def line_count(length: int) -> int:
    """How many lines a window of `length` tokens has.

    Raises:
        ConfigError: too few lines to ask about.
    """
    count = round((FILL_SHARE * length - FIXED_TOKENS) / LINE_TOKENS)
    if count < MIN_LINES:
        minimum = ceil((MIN_LINES * LINE_TOKENS + FIXED_TOKENS) / FILL_SHARE)
        raise ConfigError(f"Length {length} is too short for a window of OOLONG: use at least {minimum} tokens.")
    return count


@functools.lru_cache(maxsize=4)  # all questions of a window share its lines
def make_window(questions: Questions, length: int, seed: int, number: int) -> tuple[WindowLine, ...]:
    """The lines of a window, in order."""
    rng = SeededRandom("oolong window", length, seed, number)
    count = line_count(length)
    weights = [0.05 + share * share for share in (rng.random() for _ in LABELS)]
    users = [
        str(user)
        for user in rng.sample(range(10_000, 100_000), min(max(count // LINES_PER_USER, MIN_USERS), MAX_USERS))
    ]
    frequent = users[: max(1, int(len(users) * FREQUENT_USER_SHARE))]
    unused = {label: rng.shuffled(questions.by_label[label]) for label in LABELS}
    rows = []
    for _ in range(count):
        label = _weighted(rng, weights)
        question = unused[label].pop() if unused[label] else rng.choice(questions.by_label[label])
        user = rng.choice(frequent if rng.random() < FREQUENT_LINE_SHARE else users[len(frequent) :])
        day = FIRST_DAY + timedelta(days=rng.below(DAYS))
        rows.append(WindowLine(day=day, user=user, question=question, label=label))
    return tuple(rows)


def _weighted(rng: SeededRandom, weights: list[float]) -> str:
    place = rng.random() * sum(weights)
    for label, weight in zip(LABELS, weights, strict=True):
        place -= weight
        if place < 0:
            return label
    return LABELS[-1]


def render(rows: tuple[WindowLine, ...]) -> str:
    """The text of a window: introduction, lines, and a reminder of the introduction."""
    count, labels = f"{len(rows)}", ", ".join(f"'{label}'" for label in LABELS)
    lines = [f"Date: {show_day(row.day)} || User: {row.user} || Instance: {row.question}" for row in rows]
    opening, recall = (text.format(count=count, labels=labels) for text in (_INTRODUCTION, _RECALL))
    return "\n".join([opening, "", *lines, "", recall])


def show_day(day: date) -> str:
    """A date as windows show it: `Jul 01, 2022`."""
    return f"{MONTHS[day.month - 1][:3]} {day.day:02}, {day.year}"


def read_window(text: str, questions: Questions) -> tuple[WindowLine, ...]:
    """Parse the lines of a window and add the labels of its questions."""
    months = {name[:3]: number for number, name in enumerate(MONTHS, 1)}
    return tuple(
        WindowLine(
            day=date(int(year), months[month], int(day)),
            user=user,
            question=question,
            label=questions.label_of[question],
        )
        for month, day, year, user, question in _LINE.findall(text)
    )
