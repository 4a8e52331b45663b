"""Instances are pure functions of their arguments, and reports are made from rows alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.evals.plan import Plan
from rlm.evals.report import trials as report
from rlm.evals.results import ResultRow, Results
from rlm.evals.tasks.niah import NAMES, SeedNiah, is_correct, length_of, make_haystack, read_facts


@settings(max_examples=30)
@given(st.integers(20, 2000), st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 4))
def test_an_instance_is_a_pure_function_whose_gold_can_be_read_from_its_text(
    lines: int, seed: int, number: int, facts: int
) -> None:
    trial = make_haystack(number=number, lines=lines, seed=seed, facts=facts)
    assert trial == make_haystack(number=number, lines=lines, seed=seed, facts=facts)
    assert read_facts(trial.context) == trial.expected
    text = trial.context.split("\n")
    assert len(text) == lines
    places = [place for place, line in enumerate(text) if line.startswith("The magic number")]
    assert len(places) == facts
    assert all(int(lines * 0.4) <= place < max(int(lines * 0.6), int(lines * 0.4) + facts) for place in places)
    assert all(3 <= len(line.split()) <= 8 for line in text)


@settings(max_examples=30)
@given(st.integers(20, 3000))
def test_a_size_in_lines_has_a_length_in_tokens_that_gives_as_many_lines(lines: int) -> None:
    instance = SeedNiah(variant="needle", facts=1).make(length=length_of(lines), seed=7, index=0)
    assert instance.text == make_haystack(number=1, lines=lines, seed=7).context


def test_trials_of_one_run_differ() -> None:
    trials = [make_haystack(number=number, lines=100, seed=7) for number in range(5)]
    assert len({trial.context for trial in trials}) == 5


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("1234567", {"": "1234567"}, True),
        ("The magic number is 1,234,567.", {"": "1234567"}, True),
        ("11234567", {"": "1234567"}, False),
        ("1234567 or 7654321", {"": "1234567"}, False),
        ("", {"": "1234567"}, False),
        ("ada=1234567, ben=7654321", {"ada": "1234567", "ben": "7654321"}, True),
        ("ben: 7654321; ada: 1,234,567", {"ada": "1234567", "ben": "7654321"}, True),
        ("ada=7654321, ben=1234567", {"ada": "1234567", "ben": "7654321"}, False),
        ("ada=1234567", {"ada": "1234567", "ben": "7654321"}, False),
    ],
)
def test_an_answer_is_right_when_it_states_every_number_beside_its_name_and_no_other(
    answer: str, expected: dict[str, str], right: bool
) -> None:
    assert is_correct(answer, expected) is right


def test_every_name_in_the_corpus_is_a_distinct_word() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(name.isalpha() for name in NAMES)


def row(index: int, **fields) -> ResultRow:
    return ResultRow(task="seed_niah/needle", length=9, seed=7, index=index, method="rlm:1", expected=("1",), **fields)


ROWS = [
    row(0, answer="a|b <script> `x`", strict=0.0, cost_usd=None),
    row(1, error="ModelError: gone"),
    row(2, answer="1", strict=1.0, input_tokens=1_500_000, seconds=2.0),
]


def test_a_report_says_first_what_it_measures_and_counts_failures_apart(tmp_path: Path) -> None:
    settings = Plan(tasks=("seed_niah/needle",)).to_settings()
    text = report.markdown(Results(folder=tmp_path, settings=settings, rows={}), ROWS)
    assert text.startswith("This run used the scripted model: it measures the system")
    assert "1 of 2 right, 1 failed, median 1.00 s a trial." in text
    assert "| 1 | 1 | a\\|b &lt;script> \\`x\\` | no |" in text
    assert "Trial 2 failed: ModelError: gone" in text
    assert "unknown" in text
    assert "1.50M" in text
    assert "| seed | 7 |" in text
