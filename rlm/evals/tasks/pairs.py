"""OOLONG-Pairs (RLM paper, arXiv 2512.24601): all pairs of users whose lines fulfil a condition.

The windows are those of `oolong`, the twenty conditions those of the paper. The answer grows with the square of the number
of users. So a model has to compute it in code, from labels that it finds by reading.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from typing import Final, Literal

from rlm.evals.corpus.questions import ABBR, DESC, ENTY, HUM, LABELS, LOC, NAMES, NUM, Questions
from rlm.evals.corpus.windows import WindowLine, make_window, read_window, render, show_day
from rlm.evals.task import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLines:
    """A user's lines: how many have each label, and on which days."""

    counts: Counter[str]
    days: Mapping[str, list[date]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """Both users have a line with one of two labels, and all their lines labelled `dated` are on one `side` of `day`."""

    either: tuple[str, str]
    dated: str = ""
    side: Literal["after", "before"] = "after"
    day: date = date.min

    def holds(self, user: UserLines) -> bool:
        """Whether one user's lines fulfil the condition."""
        if not any(user.counts[NAMES[label]] for label in self.either):
            return False
        days = user.days.get(NAMES.get(self.dated, ""), [])
        return all(day > self.day if self.side == "after" else day < self.day for day in days)

    @property
    def words(self) -> str:
        first, second = (NAMES[label] for label in self.either)
        text = f"both users have at least one instance with the label '{first}' or '{second}'"
        if self.dated:
            label = NAMES[self.dated]
            text += (
                f", and all instances with the label '{label}' of both users must be {self.side} {show_day(self.day)}"
            )
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class OneAndOther:
    """One user fulfils `one` and the other `other`: for each label a minimum of lines, or an exact number ("=1")."""

    one: Mapping[str, str]
    other: Mapping[str, str]

    @property
    def words(self) -> str:
        return f"one user has {_requirement_text(self.one)}, and the other user has {_requirement_text(self.other)}"


def _fulfils(user: UserLines, required: Mapping[str, str]) -> bool:
    for label, number in required.items():
        count, minimum = user.counts[NAMES[label]], int(number.lstrip("="))
        if count != minimum if number.startswith("=") else count < minimum:
            return False
    return True


def _requirement_text(required: Mapping[str, str]) -> str:
    texts = []
    for label, number in required.items():
        times = {"1": "one instance", "2": "two instances"}[number.lstrip("=")]
        texts.append(f"{'exactly' if number.startswith('=') else 'at least'} {times} with the label '{NAMES[label]}'")
    return " and ".join(texts)


CONDITIONS: Final[tuple[Both | OneAndOther, ...]] = (
    Both(either=(NUM, LOC)),
    Both(either=(ENTY, HUM)),
    Both(either=(DESC, ABBR)),
    Both(either=(HUM, LOC), dated=HUM, side="after", day=date(2023, 1, 6)),
    Both(either=(ENTY, NUM), dated=ENTY, side="before", day=date(2023, 3, 15)),
    Both(either=(LOC, ABBR)),
    Both(either=(DESC, NUM), dated=NUM, side="after", day=date(2023, 2, 1)),
    Both(either=(HUM, DESC)),
    Both(either=(ENTY, LOC), dated=LOC, side="after", day=date(2023, 4, 10)),
    Both(either=(NUM, ABBR), dated=ABBR, side="before", day=date(2023, 5, 20)),
    OneAndOther(one={ENTY: "1", ABBR: "1"}, other={ENTY: "=1"}),
    OneAndOther(one={NUM: "2"}, other={LOC: "1", HUM: "1"}),
    OneAndOther(one={DESC: "=1"}, other={ABBR: "1", ENTY: "1"}),
    OneAndOther(one={HUM: "1", NUM: "1"}, other={LOC: "=2"}),
    OneAndOther(one={ENTY: "1", LOC: "1", ABBR: "1"}, other={NUM: "=1"}),
    OneAndOther(one={DESC: "1", HUM: "1"}, other={ENTY: "2", ABBR: "=1"}),
    OneAndOther(one={NUM: "=1"}, other={LOC: "1", DESC: "1"}),
    OneAndOther(one={ABBR: "1", HUM: "=1"}, other={ENTY: "1", NUM: "1"}),
    OneAndOther(one={LOC: "2", ENTY: "1"}, other={DESC: "=1", ABBR: "=1"}),
    OneAndOther(one={NUM: "1", HUM: "1"}, other={LOC: "1", ENTY: "1", ABBR: "=1"}),
)
_QUERY: Final = (
    "In the above data, list all pairs of user IDs (no pair twice, the lower ID first) where {words}. Each of the questions "
    "has one of the labels {labels}; the data do not show them, so they have to be inferred from what each question means. "
    "List all pairs in the form (user_id_1, user_id_2), one pair a line; if there are none, say 'none'."
)


def query_of(condition: Both | OneAndOther) -> str:
    """The question that asks for a condition."""
    return _QUERY.format(words=condition.words, labels=", ".join(f"'{label}'" for label in LABELS))


def pairs_of(rows: tuple[WindowLine, ...], condition: Both | OneAndOther) -> tuple[str, ...]:
    """The pairs as `(10001, 10002)`, sorted by user ID."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    days: defaultdict[str, dict[str, list[date]]] = defaultdict(dict)
    for row in rows:
        counts[row.user][row.label] += 1
        days[row.user].setdefault(row.label, []).append(row.day)
    users = {name: UserLines(counts=counts[name], days=days[name]) for name in sorted(counts, key=int)}
    match condition:
        case Both():
            good = [name for name, user in users.items() if condition.holds(user)]
            found = list(combinations(good, 2))
        case OneAndOther():
            one = {name for name, user in users.items() if _fulfils(user, condition.one)}
            other = {name for name, user in users.items() if _fulfils(user, condition.other)}
            found = [
                (a, b)
                for a, b in combinations([name for name in users if name in one or name in other], 2)
                if (a in one and b in other) or (b in one and a in other)
            ]
    return tuple(f"({a}, {b})" for a, b in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Instances 0 to 19 ask for the twenty conditions in one window, 20 to 39 in the next, and so on."""

    name: str
    questions: Callable[[], Questions]

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """See `Task`."""
        number, place = divmod(index, len(CONDITIONS))
        rows = make_window(self.questions(), length, seed, number)
        return Instance(
            task=self.name,
            length=length,
            seed=seed,
            index=index,
            context=render(rows),
            query=query_of(CONDITIONS[place]),
            answers=pairs_of(rows, CONDITIONS[place]),
            scorer="pairs",
        )

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """See `Task`."""
        assert isinstance(context, str)
        for condition in CONDITIONS:
            if query_of(condition) == query:
                return pairs_of(read_window(context, self.questions()), condition)
        raise ValueError(f"Not a question of {self.name}: {query}")
