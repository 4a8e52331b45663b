"""OOLONG's windows, questions and pairs: sizes, rules for fair questions, and answers counted by hand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from itertools import combinations, permutations
from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.evals.corpus.questions import LABELS, NAMES, built_in, read_trec
from rlm.evals.corpus.windows import FIRST_DAY, LINES_PER_USER, WindowLine, line_count, make_window, read_window, render
from rlm.evals.registry import load_tasks
from rlm.evals.tasks import pairs
from rlm.evals.tasks.oolong import QUESTIONS_PER_WINDOW, window_questions
from rlm.evals.tasks.oolong_forms import SCOPES, TEMPLATES, in_scope

TASKS = load_tasks()
ABBR, DESC, ENTY, HUM, LOC, NUM = LABELS


def test_a_window_of_one_user_compares_no_user_with_himself() -> None:
    make = TASKS["oolong/trec_coarse"].make
    asked = [make(length=800, seed=seed, index=index).query for seed in (1, 5) for index in range(25)]
    assert not [query for query in asked if re.search(r"User (\d+) or User \1\?", query)]


def test_there_are_400_distinct_questions_of_each_class_and_no_question_is_of_two() -> None:
    questions = built_in()
    assert all(len(set(questions.by_label[label])) == len(questions.by_label[label]) >= 400 for label in LABELS)
    assert sum(map(len, questions.by_label.values())) == len(questions.label_of)
    assert all(question[-2:] in (" ?", " .") and "  " not in question for question in questions.label_of)


def test_a_trec_file_is_read_as_published_and_a_question_with_two_labels_is_skipped(tmp_path: Path) -> None:
    lines = [
        "NUM:dist How far is it from Denver to Aspen ?",
        "LOC:city What county is Modesto , California in ?",
        "HUM:desc Who was Galileo ?",
        "DESC:def What is an atom ?",
        "ENTY:animal What fowl grabs the spotlight ?",
        "ABBR:exp What is the full form of .com ?",
        "HUM:ind Who is on the caf\xe9 wall ?",
        "DESC:desc Who was Galileo ?",
    ]
    file = tmp_path / "train.label"
    file.write_bytes("\n".join([*lines, ""]).encode("latin-1"))
    questions = read_trec(file)
    assert questions.label_of["How far is it from Denver to Aspen ?"] == NUM
    assert questions.by_label[HUM] == ("Who is on the caf\xe9 wall ?",)
    assert "Who was Galileo ?" not in questions.label_of

    task = load_tasks(trec=file)["oolong/trec_file"]
    instance = task.make(length=4096, seed=1, index=0)
    assert task.gold(instance.context, instance.query) == instance.answers
    assert "What is an atom ?" in instance.context


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NUM:dist How far ?\nWHO:x Who ?", "line 2: "),
        ("NUM:dist How far ?", "class ABBR"),
        ("NUM:dist", "line 1: "),
    ],
)
def test_an_invalid_trec_file_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.label"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_trec(file)
    with pytest.raises(ConfigError, match="Cannot read"):
        read_trec(tmp_path / "missing")


def test_a_window_has_as_many_lines_as_oolong_has_at_its_length() -> None:
    assert [line_count(2**power) for power in (10, 13, 15, 17)] == [13, 188, 787, 3181]
    with pytest.raises(ConfigError):
        line_count(600)


def test_a_window_shows_everything_but_the_labels_and_is_read_as_it_was_made() -> None:
    rows = make_window(built_in(), 32768, 1, 0)
    text = render(rows)
    assert read_window(text, built_in()) == rows
    first, *_, last = text.split("\n")
    assert "787" in first
    assert last.startswith("Recall:")
    assert re.fullmatch(r"Date: \w{3} \d\d, 202[2-5] \|\| User: \d{5} \|\| Instance: .+", text.split("\n")[2])
    assert min(row.day for row in rows) >= FIRST_DAY
    assert max(row.day for row in rows) <= date(2025, 5, 31)


def test_a_fifth_of_the_users_write_four_fifths_of_the_lines() -> None:
    rows = make_window(built_in(), 2**17, 1, 0)
    ranked = Counter(row.user for row in rows).most_common()
    fifth = ranked[: 3181 // LINES_PER_USER // 5]
    assert 0.75 < sum(lines for _, lines in fifth) / len(rows) < 0.85


def test_questions_repeat_only_if_their_class_is_exhausted() -> None:
    rows = make_window(built_in(), 2**17, 1, 0)
    for label, questions in built_in().by_label.items():
        asked = [row.question for row in rows if row.label == label]
        assert len(set(asked)) == min(len(asked), len(questions))


def test_windows_differ_in_their_distribution_of_labels() -> None:
    commonest = {
        Counter(row.label for row in make_window(built_in(), 8192, seed, 0)).most_common(1)[0][0] for seed in range(20)
    }
    assert len(commonest) >= 4


def test_25_questions_share_a_window_and_no_two_of_them_are_the_same() -> None:
    made = [TASKS["oolong/trec_coarse"].make(length=8192, seed=1, index=index) for index in range(50)]
    assert len({instance.context for instance in made[:QUESTIONS_PER_WINDOW]}) == 1
    assert len({instance.context for instance in made}) == 2
    assert len({(instance.context, instance.query) for instance in made}) == 50


def row(day: str, user: str, label: str) -> WindowLine:
    return WindowLine(day=date.fromisoformat(day), user=user, question=f"{label} ?", label=label)


ROWS = [
    row("2022-02-03", "11111", NUM),
    row("2022-02-03", "11111", NUM),
    row("2022-02-10", "22222", LOC),
    row("2022-02-10", "22222", HUM),
    row("2022-02-10", "33333", HUM),
    row("2022-03-01", "22222", HUM),
    row("2022-03-01", "22222", LOC),
    row("2022-04-09", "33333", NUM),
    row("2023-02-09", "22222", NUM),
    row("2023-02-11", "11111", ENTY),
]


@pytest.mark.parametrize(
    ("asks", "scope", "parts", "answer"),
    [
        ("most common?", "all", {}, NUM),
        ("most common?", "lines of users", {"users": "22222, 33333"}, HUM),
        ("most common?", "month", {"month": "March"}, None),  # a tie
        ("least common?", "all", {}, None),  # two labels have none
        ("how many data points", "all", {"label": NUM}, "4"),
        ("how many data points", "month", {"month": "February", "label": HUM}, "2"),
        ("how many data points", "range", {"start": "Feb 10, 2022", "end": "Mar 01, 2022", "label": HUM}, "3"),
        ("how many data points", "month", {"month": "May", "label": HUM}, None),  # no lines at all
        ("is label", "all", {"a": NUM, "b": HUM}, "more common than"),
        ("is label", "all", {"a": ENTY, "b": LOC}, "less common than"),
        ("is label", "all", {"a": ABBR, "b": DESC}, "same frequency as"),
        ("user is represented most", "all", {}, "22222"),
        ("user is represented most", "users", {"users": "11111, 33333"}, "11111"),
        ("user is represented the second", "all", {}, "11111"),
        ("user is represented the second", "users", {"users": "33333"}, None),
        ("user has the most", "all", {"label": HUM}, "22222"),
        ("user has the most", "all", {"label": DESC}, None),
        ("user has more", "all", {"label": NUM, "first": "22222", "second": "11111"}, "11111"),
        ("user has more", "all", {"label": NUM, "first": "22222", "second": "33333"}, None),
        ("date is represented most", "all", {}, "02/10/2022"),
        ("date is represented the second", "all", {}, None),
        ("how many dates", "all", {"n": "1"}, "3"),
        ("how many dates", "all", {"n": "2"}, "2"),
        ("before {time}", "all", {"label": HUM, "time": "2022-03-01"}, "more common"),
        ("before {time}", "all", {"label": NUM, "time": "2022-03-01"}, "less common"),
        ("before {time}", "all", {"label": DESC, "time": "2022-03-01"}, "the same frequency"),
        ("before {time}", "all", {"label": DESC, "time": "2022-02-03"}, None),  # nothing is before
        ("In which month", "none", {"a": HUM, "b": NUM}, "March 2022"),
        ("In which month", "none", {"a": ABBR, "b": NUM}, None),
        ("occur more frequently", "none", {"a": NUM, "b": HUM}, "2"),
        ("single most", "none", {"label": NUM}, "1"),
        ("single most", "none", {"label": HUM}, "0"),
    ],
)
def test_an_answer_equals_a_count_by_hand_and_ties_have_none(
    asks: str, scope: str, parts: dict[str, str], answer: str | None
) -> None:
    (form,) = [form for where, form, text in TEMPLATES if asks in text and where == scope]
    assert form.answer(in_scope(scope, ROWS, parts), parts) == answer


def test_a_difference_of_shares_that_is_too_small_is_not_asked_about() -> None:
    rows = [row("2022-02-03", "11111", NUM)] * 51 + [row("2022-02-03", "11111", LOC)] * 50
    compare = next(form for _, form, text in TEMPLATES if "is label" in text)
    most = next(form for _, form, text in TEMPLATES if "most common?" in text)
    assert compare.answer(rows, {"a": NUM, "b": LOC}) is None
    assert most.answer(rows, {}) is None


def test_every_template_comes_up_and_every_query_says_its_scope() -> None:
    windows = [(length, seed) for length in (4096, 16384, 65536) for seed in range(12)]
    asked = [asked.query for window in windows for asked in window_questions(built_in(), *window, 0)]
    for scope, form, text in TEMPLATES:
        start = re.split(r"\{", SCOPES[scope] + " " + form.asks)[0].strip()
        assert any(query.startswith(start) for query in asked), text


class Person:
    """The conditions of the paper, implemented a second time."""

    def __init__(self, rows: list[WindowLine]) -> None:
        self.rows = rows

    def n(self, label: str) -> int:
        return sum(row.label == NAMES[label] for row in self.rows)

    def days(self, label: str) -> list[str]:
        return [row.day.isoformat() for row in self.rows if row.label == NAMES[label]]


BOTH: list[Callable[[Person], bool]] = [
    lambda u: bool(u.n("NUM") or u.n("LOC")),
    lambda u: bool(u.n("ENTY") or u.n("HUM")),
    lambda u: bool(u.n("DESC") or u.n("ABBR")),
    lambda u: bool(u.n("HUM") or u.n("LOC")) and all(day > "2023-01-06" for day in u.days("HUM")),
    lambda u: bool(u.n("ENTY") or u.n("NUM")) and all(day < "2023-03-15" for day in u.days("ENTY")),
    lambda u: bool(u.n("LOC") or u.n("ABBR")),
    lambda u: bool(u.n("DESC") or u.n("NUM")) and all(day > "2023-02-01" for day in u.days("NUM")),
    lambda u: bool(u.n("HUM") or u.n("DESC")),
    lambda u: bool(u.n("ENTY") or u.n("LOC")) and all(day > "2023-04-10" for day in u.days("LOC")),
    lambda u: bool(u.n("NUM") or u.n("ABBR")) and all(day < "2023-05-20" for day in u.days("ABBR")),
]
ONE_AND_OTHER: list[tuple[Callable[[Person], bool], Callable[[Person], bool]]] = [
    (lambda u: u.n("ENTY") > 0 and u.n("ABBR") > 0, lambda v: v.n("ENTY") == 1),
    (lambda u: u.n("NUM") >= 2, lambda v: v.n("LOC") > 0 and v.n("HUM") > 0),
    (lambda u: u.n("DESC") == 1, lambda v: v.n("ABBR") > 0 and v.n("ENTY") > 0),
    (lambda u: u.n("HUM") > 0 and u.n("NUM") > 0, lambda v: v.n("LOC") == 2),
    (lambda u: u.n("ENTY") > 0 and u.n("LOC") > 0 and u.n("ABBR") > 0, lambda v: v.n("NUM") == 1),
    (lambda u: u.n("DESC") > 0 and u.n("HUM") > 0, lambda v: v.n("ENTY") >= 2 and v.n("ABBR") == 1),
    (lambda u: u.n("NUM") == 1, lambda v: v.n("LOC") > 0 and v.n("DESC") > 0),
    (lambda u: u.n("ABBR") > 0 and u.n("HUM") == 1, lambda v: v.n("ENTY") > 0 and v.n("NUM") > 0),
    (lambda u: u.n("LOC") >= 2 and u.n("ENTY") > 0, lambda v: v.n("DESC") == 1 and v.n("ABBR") == 1),
    (lambda u: u.n("NUM") > 0 and u.n("HUM") > 0, lambda v: v.n("LOC") > 0 and v.n("ENTY") > 0 and v.n("ABBR") == 1),
]


@pytest.mark.parametrize("condition", range(20))
def test_the_pairs_of_a_condition_are_those_of_a_second_reading_of_the_paper(condition: int) -> None:
    for window in range(6):
        rows = make_window(built_in(), 4096, 5, window)
        people = {user: Person([row for row in rows if row.user == user]) for user in {row.user for row in rows}}
        if condition < 10:
            good = sorted(user for user, person in people.items() if BOTH[condition](person))
            expected = set(combinations(good, 2))
        else:
            one, other = ONE_AND_OTHER[condition - 10]
            expected = {
                (min(a, b), max(a, b)) for a, b in permutations(people, 2) if one(people[a]) and other(people[b])
            }
        found = TASKS["oolong_pairs"].make(length=4096, seed=5, index=20 * window + condition).answers
        assert set(found) == {f"({a}, {b})" for a, b in expected}
        assert len(set(found)) == len(found)


def test_twenty_conditions_ask_twenty_different_things_of_the_same_window_as_oolong() -> None:
    assert len({pairs.query_of(condition) for condition in pairs.CONDITIONS}) == 20
    made = [TASKS["oolong_pairs"].make(length=4096, seed=1, index=index) for index in (0, 19, 20)]
    assert made[0].context == made[1].context != made[2].context
    assert made[0].context == TASKS["oolong/trec_coarse"].make(length=4096, seed=1, index=3).context
    assert "Jan 06, 2023" in TASKS["oolong_pairs"].make(length=4096, seed=1, index=3).query
