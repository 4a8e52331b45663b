"""`rlm runs` lists the runs that other commands find, with their known values. `rlm replay` needs a recorded answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.small_tree import small_tree
from rlm.store.directory import default_root

RLM = Callable[..., Any]  # the fixture


@pytest.fixture
def run() -> Path:
    return small_tree(run_root=default_root()).completion("the context", "Is it the root?").run_dir


def test_a_run_is_listed_by_the_name_that_other_commands_find_it_by(rlm: RLM, run: Path) -> None:
    shutil.copytree(run, run.with_name("renamed"))
    listed = json.loads(rlm("runs", "--json").out)
    assert [each["run_id"] for each in listed] == [run.name, "renamed"]
    for each in listed:
        assert rlm("view", "--no-open", each["run_id"]).status == 0


def test_the_cost_of_a_damaged_run_is_unknown(rlm: RLM, run: Path) -> None:
    (run / "run.json").write_text("{}")
    (listed,) = json.loads(rlm("runs", "--json").out)
    assert (listed["state"], listed["calls"], listed["cost_usd"]) == ("damaged", None, None)
    assert rlm("runs").out.splitlines()[1].split() == [run.name, "damaged", "-", "-"]


def test_a_run_without_its_answer_is_not_replayed(rlm: RLM, run: Path) -> None:
    (run / "answer.txt").unlink()
    ended = rlm("replay", str(run))
    sentence = f"rlm: The run in {run} is damaged: cannot read answer.txt (No such file or directory).\n"
    assert (ended.status, ended.err) == (1, sentence)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"state": "interrupted"}))
    assert "has not finished" in rlm("replay", str(run)).err
