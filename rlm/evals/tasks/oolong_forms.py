"""OOLONG's questions: every query is a *scope* (which lines count) and a *form* (what it asks about them).

Scopes, forms, the rule for fair questions, and the wording of answers follow tables 15 to 17 of the paper
(arXiv 2511.02817).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from rlm.evals.corpus.dates import MONTHS, read_date
from rlm.evals.corpus.questions import LABELS
from rlm.evals.corpus.windows import WindowLine

MIN_FAIR_DIFFERENCE: Final = 0.02  # difference of two shares; smaller ones, except 0, are too close to ask about

Lines = Sequence[WindowLine]
Parts = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OolongForm:
    """One kind of question.

    Attributes:
        name: name of the form.
        asks: template of the query.
        answer: takes the lines and the parts of the query; returns None without a single fair answer.
        scorer: a name in `rlm.evals.scorers.SCORERS`.
        scopes: names in `SCOPES` that the form combines with.
    """

    name: str
    asks: str
    answer: Callable[[Lines, Parts], str | None]
    scorer: str
    scopes: tuple[str, ...]


def _most_common(rows: Lines, parts: Parts) -> str | None:
    counts = _counts(rows)
    (label, first), (_, second) = counts.most_common(2)
    return label if first - second > MIN_FAIR_DIFFERENCE * len(rows) else None


def _least_common(rows: Lines, parts: Parts) -> str | None:
    (_, second), (label, last) = _counts(rows).most_common()[-2:]
    return label if last < second else None


def _compared(rows: Lines, parts: Parts) -> str | None:
    counts = _counts(rows)
    difference = counts[parts["a"]] - counts[parts["b"]]
    if not rows or 0 < abs(difference) <= MIN_FAIR_DIFFERENCE * len(rows):
        return None
    return "more common than" if difference > 0 else "less common than" if difference < 0 else "same frequency as"


def _count(rows: Lines, parts: Parts) -> str | None:
    return str(_counts(rows)[parts["label"]]) if rows else None


def _user(rows: Lines, parts: Parts) -> str | None:
    return _at_rank(Counter(row.user for row in rows), 0)


def _second_user(rows: Lines, parts: Parts) -> str | None:
    return _at_rank(Counter(row.user for row in rows), 1)


def _user_of_label(rows: Lines, parts: Parts) -> str | None:
    return _at_rank(Counter(row.user for row in rows if row.label == parts["label"]), 0)


def _user_of_two(rows: Lines, parts: Parts) -> str | None:
    two = (parts["first"], parts["second"])
    if two[0] == two[1]:  # the window has one user
        return None
    return _at_rank(Counter(row.user for row in rows if row.label == parts["label"] and row.user in two), 0)


def _day(rows: Lines, parts: Parts) -> str | None:
    return _at_rank(Counter(f"{row.day:%m/%d/%Y}" for row in rows), 0)


def _second_day(rows: Lines, parts: Parts) -> str | None:
    return _at_rank(Counter(f"{row.day:%m/%d/%Y}" for row in rows), 1)


def _days_seen(rows: Lines, parts: Parts) -> str | None:
    return str(sum(times == int(parts["n"]) for times in Counter(row.day for row in rows).values()))


def _before(rows: Lines, parts: Parts) -> str | None:
    day = date.fromisoformat(parts["time"])
    before = [row.label for row in rows if row.day < day]
    after = [row.label for row in rows if row.day > day]
    if not before or not after:
        return None
    difference = before.count(parts["label"]) * len(after) - after.count(parts["label"]) * len(before)
    if 0 < abs(difference) <= MIN_FAIR_DIFFERENCE * len(before) * len(after):
        return None
    return "more common" if difference > 0 else "less common" if difference < 0 else "the same frequency"


def _first_month(rows: Lines, parts: Parts) -> str | None:
    for (year, month), counts in _months(rows):
        if counts[parts["a"]] > counts[parts["b"]]:
            return f"{MONTHS[month - 1]} {year}"
    return None


def _months_above(rows: Lines, parts: Parts) -> str | None:
    return str(sum(counts[parts["a"]] > counts[parts["b"]] for _, counts in _months(rows)))


def _months_alone(rows: Lines, parts: Parts) -> str | None:
    return str(sum(_at_rank(counts, 0) == parts["label"] for _, counts in _months(rows)))


def _counts(rows: Lines) -> Counter[str]:
    """The count of every label, zeros included, in the order of LABELS."""
    counts = Counter(dict.fromkeys(LABELS, 0))
    counts.update(row.label for row in rows)
    return counts


def _at_rank(counts: Counter[str], rank: int) -> str | None:
    """The item at this rank by frequency; None if it shares the rank."""
    ranked = counts.most_common(rank + 2)
    frequencies = [count for _, count in ranked]
    unique = len(ranked) > rank and frequencies.count(frequencies[rank]) == 1
    return ranked[rank][0] if unique else None


def _months(rows: Lines) -> list[tuple[tuple[int, int], Counter[str]]]:
    """The label counts of every month that has lines, in chronological order."""
    found: dict[tuple[int, int], Counter[str]] = {}
    for row in rows:
        found.setdefault((row.day.year, row.day.month), Counter())[row.label] += 1
    return sorted(found.items())


_SUBSET: Final = "For the following question, only consider the subset of"
SCOPES: Final = {
    "all": "In the above data,",
    "lines of users": f"{_SUBSET} instances that are associated with user IDs {{users}}. "
    "Among instances associated with these users,",
    "users": f"{_SUBSET} users with IDs {{users}}. Among these users,",
    "month": f"{_SUBSET} instances that occur in {{month}} of any year. Among instances occurring in {{month}},",
    "range": f"{_SUBSET} instances that occur between {{start}} and {{end}}, inclusive. "
    "Among instances occurring in this date range,",
    "none": "",
}
_FINAL: Final = "Give your final answer in the form"
_LABEL: Final = f"{_FINAL} 'Label: answer' where answer is one of the labels: {', '.join(LABELS)}."
_NUMBER: Final = f"{_FINAL} 'Answer: number'."
_USER: Final = f"{_FINAL} 'User: [X]', where [X] is the user ID."
_DATE: Final = f"{_FINAL} 'Date: [X]', where [X] is the date in the format MM/DD/YYYY."
_COUNTED: Final = ("all", "lines of users", "month", "range")

FORMS: Final = (
    OolongForm(
        name="most common label",
        asks=f"which of the labels is the most common? {_LABEL}",
        answer=_most_common,
        scorer="oolong",
        scopes=_COUNTED,
    ),
    OolongForm(
        name="least common label",
        asks=f"which of the labels is the least common? {_LABEL}",
        answer=_least_common,
        scorer="oolong",
        scopes=_COUNTED,
    ),
    OolongForm(
        name="two labels",
        asks=f"is label '{{a}}' more common, less common, or the same frequency as label '{{b}}'? {_FINAL} 'Answer: "
        "{a} is [X] {b}', where [X] is 'more common than', 'less common than', or 'same frequency as'.",
        answer=_compared,
        scorer="oolong",
        scopes=_COUNTED,
    ),
    OolongForm(
        name="count",
        asks=f"how many data points should be classified as label '{{label}}'? {_NUMBER}",
        answer=_count,
        scorer="oolong_number",
        scopes=_COUNTED,
    ),
    OolongForm(
        name="user",
        asks=f"which user is represented most often? {_USER}",
        answer=_user,
        scorer="oolong",
        scopes=("all", "users"),
    ),
    OolongForm(
        name="second user",
        asks=f"which user is represented the second most often? {_USER}",
        answer=_second_user,
        scorer="oolong",
        scopes=("all", "users"),
    ),
    OolongForm(
        name="user of label",
        asks=f"which user has the most instances with the label {{label}}? {_USER}",
        answer=_user_of_label,
        scorer="oolong",
        scopes=("all", "users"),
    ),
    OolongForm(
        name="one of two users",
        asks=f"which user has more instances with the label {{label}}: User {{first}} or User {{second}}? {_USER}",
        answer=_user_of_two,
        scorer="oolong",
        scopes=("all",),
    ),
    OolongForm(
        name="date",
        asks=f"which date is represented most often? {_DATE}",
        answer=_day,
        scorer="oolong_date",
        scopes=("all",),
    ),
    OolongForm(
        name="second date",
        asks=f"which date is represented the second most often? {_DATE}",
        answer=_second_day,
        scorer="oolong_date",
        scopes=("all",),
    ),
    OolongForm(
        name="dates seen n times",
        asks=f"how many dates are represented exactly {{n}} times? {_FINAL} 'Answer: [X]', where [X] is the number of dates "
        "represented exactly {n} times.",
        answer=_days_seen,
        scorer="oolong_number",
        scopes=("all",),
    ),
    OolongForm(
        name="before or after",
        asks="was label '{label}' more common, less common, or the same frequency before {time}, as compared to after "
        f"{{time}}? {_FINAL} 'Answer: {{label}} is [X] before {{time}}', where [X] is 'more common', 'less common', or "
        "'the same frequency'.",
        answer=_before,
        scorer="oolong",
        scopes=("all",),
    ),
    OolongForm(
        name="first month",
        asks=f"In which month did the label '{{a}}' first occur more often than the label '{{b}}'? {_FINAL} 'Answer: "
        "[month] [year]', where [month] is the name of the month and [year] is the four-digit year where '{a}' first "
        "occurred more often than '{b}'.",
        answer=_first_month,
        scorer="oolong",
        scopes=("none",),
    ),
    OolongForm(
        name="months above",
        asks="For how many months does the label '{a}' occur more frequently than the label '{b}'? Disregard months where "
        f"there is a tie. {_FINAL} 'Answer: [X]', where [X] is the number of months where '{{a}}' occurs more often than "
        "'{b}'.",
        answer=_months_above,
        scorer="oolong_number",
        scopes=("none",),
    ),
    OolongForm(
        name="months alone",
        asks="For how many months is the label '{label}' the single most frequently occurring label? Disregard months where "
        f"there is a tie for the most common label. {_FINAL} 'Answer: [X]', where [X] is the number of months where "
        "'{label}' is the most common label.",
        answer=_months_alone,
        scorer="oolong_number",
        scopes=("none",),
    ),
)
TEMPLATES: Final = tuple(
    (scope, form, f"{SCOPES[scope]} {form.asks}".strip()) for form in FORMS for scope in form.scopes
)


def in_scope(scope: str, rows: Lines, parts: Parts) -> Lines:
    """The lines that a scope includes."""
    match scope:
        case "lines of users" | "users":
            users = set(parts["users"].split(", "))
            return [row for row in rows if row.user in users]
        case "month":
            month = MONTHS.index(parts["month"]) + 1
            return [row for row in rows if row.day.month == month]
        case "range":
            start, end = read_date(parts["start"]), read_date(parts["end"])
            assert start is not None
            assert end is not None
            return [row for row in rows if start <= row.day <= end]
        case _:
            return rows
