"""An evaluation goes on as it was begun, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm.evals.plan import Plan
from rlm.evals.results import Results

RLM = Callable[..., Any]  # the fixture


@pytest.mark.parametrize(
    "other",
    [
        ["ruler/single_1"], ["-n", "9"], ["--seed", "0"], ["--accuracy", "0"], ["--max-iterations", "3"],
        ["--lengths", "4k"], ["--method", "direct"], ["--model", "m"], ["--window", "9"],
        ["--max-cost-usd", "0"], ["--out", "other"],
    ],
)  # fmt: skip
def test_what_would_change_an_evaluation_is_refused_and_not_ignored(here: Path, rlm: RLM, other: list[str]) -> None:
    Results.create(here / "one", Plan(tasks=("ruler/single_1",), methods=("keyword",), n=1).as_json())
    ended = rlm("eval", "run", "--resume", "one", *other)
    assert ended.status == 2
    assert (
        ended.err
        == "rlm: one goes on as it was begun: give nothing beside --resume but --at-once and --redo-failed-calls.\n"
    )
    assert (here / "one" / "results.jsonl").read_text() == ""


def test_answers_are_done_again_in_an_evaluation_that_is_there(here: Path, rlm: RLM) -> None:
    ended = rlm("eval", "ruler/single_1", "--redo-failed-calls")
    assert ended.status == 2
    assert ended.err == "rlm: --redo-failed-calls does answers of an evaluation again: give it with --resume DIR.\n"
    assert not list(here.iterdir())
