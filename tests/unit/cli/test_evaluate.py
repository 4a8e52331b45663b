"""An evaluation resumes with its original settings, or is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rlm.errors import ConfigError
from rlm.evals.harness import run_jobs
from rlm.evals.methods.keyword import keyword
from rlm.evals.plan import Plan
from rlm.evals.results import ResultRow, Results

RLM = Callable[..., Any]  # the fixture


@pytest.mark.parametrize(
    "other",
    [
        ["ruler/single_1"], ["-n", "1"], ["--seed", "0"], ["--accuracy", "0"], ["--max-iterations", "3"],
        ["--lengths", "4k"], ["--method", "direct"], ["--model", "m"], ["--window", "9"],
        ["--max-cost-usd", "0"], ["--out", "other"], ["--temperature", "1"],
        ["--sub-context-window", "9000"], ["--sub-base-url", "http://x/v1"],
    ],
)  # fmt: skip
def test_options_that_would_change_an_evaluation_are_refused(here: Path, rlm: RLM, other: list[str]) -> None:
    Results.create(here / "one", Plan(tasks=("ruler/single_1",), methods=("keyword",), n=2).to_settings())
    ended = rlm("eval", "run", "--resume", "one", *other)
    assert ended.status == 2
    assert (
        ended.err
        == "rlm: --resume keeps the original settings: it allows only --concurrency, --redo-failed-calls and a larger -n.\n"
    )
    assert (here / "one" / "results.jsonl").read_text() == ""


def test_flags_and_settings_give_the_models_of_a_plan_their_options(
    here: Path, rlm: RLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Plan] = []

    def stop(plan: Plan, *arguments: object, **options: object) -> None:
        seen.append(plan)
        raise ConfigError("Enough.")

    monkeypatch.setattr("rlm.cli.commands.evaluate.start", stop)
    monkeypatch.setattr("rlm.cli.commands.niah.start", stop)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    (here / "rlm.toml").write_text("[model_options]\nseed = 1\n[sub_model_options]\ntop_p = 0.5")
    flags = ["--model", "m", "--temperature", "0.2", "--context-window", "9000", "--sub-max-output-tokens", "50"]
    root = {"temperature": 0.2, "context_window": 9000, "seed": 1}
    sub = {"max_output_tokens": 50, "top_p": 0.5}
    rlm("eval", "ruler/single_1", *flags)
    rlm("niah", *flags, "--sub-model", "n")
    assert [plan.model_options for plan in seen] == [root, root]
    assert [plan.sub_model_options for plan in seen] == [{**root, **sub}, sub]
    models = seen[0].models()
    assert models.root is not None
    assert models.sub is not None
    assert (models.root.parameters, models.root.context_window) == ({"temperature": 0.2, "seed": 1}, 9000)
    limited = {"temperature": 0.2, "seed": 1, "top_p": 0.5, "max_completion_tokens": 50}
    assert (models.sub.parameters, models.sub.context_window) == (limited, 9000)
    again = Plan.from_settings(json.loads(json.dumps(seen[0].to_settings())))
    assert (again.model_options, again.sub_model_options) == (root, {**root, **sub})


def test_without_the_extra_nothing_is_answered_that_could_not_be_reported(
    here: Path, rlm: RLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rlm.cli.commands.evaluate.find_spec", lambda name: None if name == "scipy" else find_spec(name)
    )
    ended = rlm("eval", "ruler/single_1", "--method", "keyword", "--out", "one")
    assert (ended.status, ended.err) == (2, "rlm: Evaluations require scipy and matplotlib: pip install 'rlm[eval]'.\n")
    assert not (here / "one").exists()


def test_answering_needs_no_extra() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('matplotlib', 'numpy', 'scipy')));"
        "import rlm.cli.commands.niah, rlm.evals.harness, rlm.evals.report.trials, rlm.evals.plan, rlm.evals.progress"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_redo_failed_calls_needs_an_existing_evaluation(here: Path, rlm: RLM) -> None:
    ended = rlm("eval", "ruler/single_1", "--redo-failed-calls")
    assert ended.status == 2
    assert ended.err == "rlm: --redo-failed-calls requires --resume DIR.\n"
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["multihop", "--model", "gpt-5"], "No API key found"),
        (["ruler/single_1", "--lengths", "8k,100"], "too short for"),
        (["--data", "gone.jsonl", "--method", "keyword"], "gone.jsonl (No such file or directory)"),
        (["ruler/single_1", "--data", "empty.jsonl", "--method", "keyword"], "empty.jsonl contains no instance"),
        (["ruler/single_1", "--max-cost-usd", "0"], "Invalid --max-cost-usd 0.0: use a number above 0"),
    ],
)
def test_a_refused_evaluation_creates_no_folder(here: Path, rlm: RLM, arguments: list[str], message: str) -> None:
    (here / "empty.jsonl").touch()
    ended = rlm("eval", *arguments, "--out", "one")
    assert ended.status == 2
    assert message in ended.err
    assert not (here / "one").exists()


def test_keyword_answers_any_task_and_file_without_a_model_and_says_what_it_was_made_with(here: Path, rlm: RLM) -> None:
    (here / "mine.jsonl").write_text(
        '{"context": "The key is 4711.", "query": "What number is the key?", "answer": 4711}'
    )
    ended = rlm("eval", "repo_qa", "--data", "mine.jsonl", "--method", "keyword", "-n", "1", "--out", "one")
    assert ended.status == 0, ended.err
    report = (here / "one" / "report.md").read_text()
    assert report.startswith("This run used no model")
    for fact in (f"| rlm | {version('rlm')} |", "| python | 3.", "| machine | ", "| started | 20"):
        assert fact in report


def test_a_larger_n_adds_instances_and_repeats_none(here: Path, rlm: RLM) -> None:
    assert rlm("eval", "multihop", "--method", "keyword", "-n", "2", "--out", "one").status == 0
    before = (here / "one" / "results.jsonl").read_text()
    ended = rlm("eval", "--resume", "one", "-n", "5")
    assert ended.status == 0, ended.err
    assert (here / "one" / "results.jsonl").read_text().startswith(before)
    results = Results.load(here / "one")
    assert (len(results.rows), results.settings["n"]) == (5, 5)
    assert json.loads((here / "one" / "eval.json").read_text())["n"] == 5
    assert "Answers: 5." in (here / "one" / "report.md").read_text()


def test_a_larger_n_survives_a_crash_before_its_first_answer(here: Path, rlm: RLM) -> None:
    assert rlm("eval", "multihop", "--method", "keyword", "-n", "2", "--out", "one").status == 0
    results = Results.load(here / "one")
    results.with_settings({**results.settings, "n": 5})  # and the process was killed
    assert rlm("eval", "--resume", "one").status == 0
    assert len(Results.load(here / "one").rows) == 5
    assert "| n | 5 |" in (here / "one" / "report.md").read_text()


def test_rows_alone_make_a_report(here: Path, rlm: RLM) -> None:
    assert rlm("eval", "multihop", "--method", "keyword", "-n", "2", "--out", "one").status == 0
    report = (here / "one" / "report.md").read_text()
    (here / "one" / "eval.json").unlink()
    assert rlm("eval", "report", "one").status == 0
    assert (here / "one" / "report.md").read_text() == report


MINE = [{"context": f"The key is {n}.", "query": "What number is the key?", "answer": n} for n in (4711, 4712)]


@pytest.mark.parametrize(
    "changed",
    [
        [MINE[1], MINE[0]],
        [MINE[0], MINE[1] | {"context": "The key of all the doors is 4712."}],
        [MINE[0], MINE[1] | {"answer": 4713}],
        [MINE[0]],
    ],
)
def test_an_evaluation_does_not_resume_with_other_data(here: Path, rlm: RLM, changed: list[Any]) -> None:
    data = here / "mine.jsonl"
    data.write_text("\n".join(map(json.dumps, MINE)))
    assert rlm("eval", "--data", "mine.jsonl", "--method", "keyword", "--out", "one").status == 0
    before = (here / "one" / "results.jsonl").read_text()
    assert rlm("eval", "--resume", "one").status == 0
    data.write_text("\n".join(map(json.dumps, changed)))
    ended = rlm("eval", "--resume", "one", "-n", "20")
    assert ended.status == 2
    assert "of user/mine has changed since it was answered" in ended.err
    assert (here / "one" / "results.jsonl").read_text() == before
    assert json.loads((here / "one" / "eval.json").read_text())["n"] == 10


def test_rows_that_are_not_in_the_plan_hide_no_failure(here: Path, rlm: RLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rlm("eval", "multihop", "--method", "keyword", "-n", "2", "--out", "one").status == 0
    rows = here / "one" / "results.jsonl"
    rows.write_text(rows.read_text().replace('"seed": 7, "index"', '"seed": 8, "index"'))

    async def none(jobs: object, **given: Any) -> list[ResultRow]:
        return await run_jobs([], **given)  # as without an engine

    monkeypatch.setattr("rlm.evals.harness.run_jobs", none)
    ended = rlm("eval", "--resume", "one")
    assert "2 answers, 0 already done" in ended.err
    assert ended.status == 1


def test_a_folder_without_a_plan_is_refused_by_every_command(here: Path, rlm: RLM) -> None:
    Results.create(here / "one", {"model": "scripted", "depth": 1})
    for command in (["--resume", "one"], ["report", "one"]):
        ended = rlm("eval", *command)
        assert ended.status == 2
        assert ended.err == "rlm: eval.json contains no plan. Use a folder created by `rlm eval` or `rlm niah`.\n"
    ended = rlm("niah", "--lines", "20", "--out", "one")
    assert (ended.status, ended.err) == (
        2,
        "rlm: one already contains results. Continue with `rlm eval --resume one`, or choose another folder with --out "
        "(OUT=).\n",
    )


def test_rlm_niah_is_an_evaluation_that_resumes_and_reports(
    here: Path, rlm: RLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlm.evals.harness.find_method", lambda name: keyword)
    ended = rlm("niah", "--lines", "50", "--trials", "2", "--facts", "3", "--out", "one")
    assert ended.status == 0, ended.err
    assert " of 3 right" in ended.out
    assert "| indices | seed_niah/facts: 2 |" in (here / "one" / "report.md").read_text()
    rows = (here / "one" / "results.jsonl").read_text().splitlines()
    (here / "one" / "results.jsonl").write_text(f"{rows[0]}\n")
    assert rlm("eval", "--resume", "one").status == 0
    results = Results.load(here / "one")
    facts = {(row.task, row.index): len(row.expected) for row in results.rows.values()}
    assert facts == {("seed_niah/needle", 0): 1, ("seed_niah/needle", 1): 1, ("seed_niah/facts", 2): 3}
    assert {row.digest for row in results.rows.values()} == {json.loads(row)["digest"] for row in rows}
    assert "Answers: 3." in (here / "one" / "report.md").read_text()


@pytest.mark.parametrize(
    "line", ['{"a": 1}', "[]", "7", "{", "ä", '{"expected": 1}', '{"expected": [], "by_node": []}']
)
def test_an_invalid_row_is_named_by_its_line(here: Path, rlm: RLM, line: str) -> None:
    assert rlm("eval", "multihop", "--method", "keyword", "-n", "1", "--out", "one").status == 0
    with (here / "one" / "results.jsonl").open("a") as rows:
        rows.write(f"{line}\n")
    ended = rlm("eval", "report", "one")
    assert ended.status == 2
    assert ended.err == "rlm: The evaluation in one is damaged: results.jsonl, line 2 is not a result row; remove it.\n"


def test_help_is_that_of_the_group_however_it_is_asked_for(rlm: RLM) -> None:
    asked = [rlm("eval", flag).out for flag in ("-h", "--help")]
    assert asked[0] == asked[1]
    assert "compare" in asked[0]


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "multihop", "--method", "keyword", "-n", "1", "--out"],
        ["eval", "--resume"],
        ["eval", "report"],
        ["niah", "--out"],
        ["export", "x", "--to", "md", "-o"],
        ["exec", "x.py", "--get", "*", "--out-dir"],
        ["runs", "--runs"],
        ["view", "x", "-o"],
        ["view", "x", "--context"],
    ],
)
def test_an_empty_path_is_refused_and_not_the_working_directory(here: Path, rlm: RLM, command: list[str]) -> None:
    ended = rlm(*command, "")
    assert (ended.status, ended.out) == (2, "")
    assert "the path is empty." in ended.err
    assert not list(here.iterdir())
