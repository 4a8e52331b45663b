"""Instances are pure functions of their arguments, answers are judged by a stated rule, reports come from rows alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.errors import ConfigError, ModelError
from rlm.evals import report
from rlm.evals.niah import NAMES, gold, is_correct, make_trial
from rlm.evals.runner import Row, run_trials
from rlm.types import Completion, Usage


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 2000), st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 4))
def test_an_instance_is_a_pure_function_whose_gold_can_be_read_from_its_text(
    lines: int, seed: int, number: int, facts: int
) -> None:
    trial = make_trial(number=number, lines=lines, seed=seed, facts=facts)
    assert trial == make_trial(number=number, lines=lines, seed=seed, facts=facts)
    assert gold(trial.context) == trial.expected
    text = trial.context.split("\n")
    assert len(text) == lines
    places = [place for place, line in enumerate(text) if line.startswith("The magic number")]
    assert len(places) == facts
    assert all(int(lines * 0.4) <= place < max(int(lines * 0.6), int(lines * 0.4) + facts) for place in places)
    assert all(3 <= len(line.split()) <= 8 for line in text)


def test_trials_of_one_run_differ() -> None:
    trials = [make_trial(number=number, lines=100, seed=7) for number in range(5)]
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


def test_every_name_is_a_word_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(name.isalpha() for name in NAMES)


class Answers:
    """An orchestrator that says one thing, or raises it."""

    def __init__(self, said: str | Exception, folder: Path) -> None:
        self.said = said
        self.folder = folder

    async def acompletion(self, context: object, query: str | None = None) -> Completion:
        if isinstance(self.said, Exception):
            raise self.said
        return Completion(
            answer=self.said,
            stop_reason="final",
            usage=Usage(calls=2, input_tokens=10, output_tokens=5, cost_usd=None),
            seconds=1.0,
            iterations=2,
            depth_reached=0,
            sub_calls=0,
            sandboxes=1,
            run_id="id",
            run_dir=self.folder / "runs" / "id",
        )


@pytest.mark.anyio
async def test_each_trial_is_a_row_and_a_failed_one_does_not_end_the_others(tmp_path: Path) -> None:
    trials = [make_trial(number=number, lines=50, seed=1) for number in (1, 2, 3)]
    said = [trials[0].expected[""], ModelError("no reply"), "wrong"]
    rows = await run_trials(
        trials,
        orchestrator_for=lambda trial: Answers(said[trial.number - 1], tmp_path),
        folder=tmp_path,
        on_row=lambda row: None,
    )
    assert [row.correct for row in rows] == [True, None, False]
    written = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert written == [dataclasses.asdict(row) for row in rows]
    assert written[1]["error"] == "ModelError: no reply"
    assert written[0]["run_dir"] == "runs/id"


@pytest.mark.anyio
async def test_what_makes_every_trial_impossible_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        await run_trials(
            [make_trial(number=1, lines=50, seed=1)],
            orchestrator_for=lambda trial: Answers(ConfigError("no key"), tmp_path),
            folder=tmp_path,
            on_row=lambda row: None,
        )


ROWS = [
    Row(trial=1, task="needle", lines=9, expected="1", answer="a|b <script> `x`", correct=False, cost_usd=None),
    Row(trial=2, task="needle", lines=9, expected="1", error="ModelError: gone", correct=None),
    Row(trial=3, task="needle", lines=9, expected="1", answer="1", correct=True, input_tokens=1_500_000, seconds=2.0),
]


def test_a_report_says_first_what_it_measures_and_counts_failures_apart() -> None:
    text = report.markdown(ROWS, scripted=True, setting={"seed": 7})
    assert text.startswith("This run used the scripted model: it measures the system")
    assert "1 of 2 right, 1 failed, median 1.00 s a trial." in text
    assert "| 1 | 1 | a\\|b &lt;script> \\`x\\` | no |" in text
    assert "Trial 2 failed: ModelError: gone" in text
    assert "unknown" in text
    assert "1.5M" in text
    assert "| seed | 7 |" in text
