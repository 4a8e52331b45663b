"""An evaluation in real containers, killed at any moment, resumes to the table of an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlm.evals.corpus.questions import NAMES
from rlm.testing import FakeProvider

RLM = str(Path(sys.executable).with_name("rlm"))
PLAN = (
    "ruler/multikey_1",
    "oolong/trec_coarse",
    "--method",
    "rlm:1",
    "--method",
    "keyword",
    "-n",
    "4",
    "--lengths",
    "4k",
)
SCORES = "## Cost and time"  # columns of seconds follow it


def command(folder: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    keep = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "100"}
    return {"args": [RLM, "eval", *arguments], "cwd": folder, "env": keep | environment, "text": True}


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    options = command(folder, *arguments, **environment)
    done: subprocess.CompletedProcess[str] = subprocess.run(**options, capture_output=True, check=False, timeout=120)
    return done


def killed(folder: Path, moment: float, *arguments: str) -> int:
    """Start an evaluation and kill it after `moment` seconds. Returns its status."""
    options = command(folder, *arguments)
    process: subprocess.Popen[str] = subprocess.Popen(**options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait(10)


def scores(folder: Path) -> str:
    return (folder / "report.md").read_text().partition(SCORES)[0]


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("times", [1, pytest.param(8, marks=[pytest.mark.long, pytest.mark.timeout(200)])])
def test_an_evaluation_killed_at_random_moments_resumes_to_the_same_table(tmp_path: Path, times: int) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    whole = run(tmp_path, *PLAN, "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    assert "This run used the scripted model" in scores(tmp_path / "whole")
    arguments: tuple[str, ...] = (*PLAN, "--out", "cut")
    for _ in range(times):
        killed(tmp_path, chance.uniform(1.0, 4.0), *arguments)
        if (tmp_path / "cut" / "eval.json").exists():
            arguments = ("--resume", "cut")
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert scores(tmp_path / "cut") == scores(tmp_path / "whole"), f"seed {seed}"
    written = [(row["task"], row["index"], row["method"]) for row in rows(tmp_path / "cut")]
    assert len(written) == len(set(written)) == 16, f"seed {seed}: an instance was done twice"


def test_reports_and_comparisons_are_made_from_the_rows_alone(tmp_path: Path) -> None:
    plan = ("ruler/single_1", "--method", "keyword", "-n", "3")
    assert run(tmp_path, *plan, "--out", "one").returncode == 0
    assert run(tmp_path, *plan, "--out", "other").returncode == 0
    before = (tmp_path / "one" / "report.md").read_bytes()
    for name in ("report.md", "eval.json"):
        (tmp_path / "one" / name).unlink()
    assert run(tmp_path, "report", "one").returncode == 0
    assert (tmp_path / "one" / "report.md").read_bytes() == before
    assert (tmp_path / "one" / "score-by-length.png").stat().st_size > 10_000
    compared = run(tmp_path, "compare", "one", "other")
    assert "ruler/single_1, keyword: no difference found: +0.000, p = 1" in compared.stdout, compared.stderr


def test_ctrl_c_says_how_to_resume(tmp_path: Path) -> None:
    process = subprocess.Popen(
        **command(tmp_path, *PLAN, "-n", "40", "--out", "cut"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    patience = time.monotonic() + 30
    while not (tmp_path / "cut" / "results.jsonl").exists() or not rows(tmp_path / "cut"):
        assert time.monotonic() < patience
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - began < 6
    assert process.returncode == 130
    assert "rlm eval --resume cut" in errors


def test_on_a_trec_file_the_scripted_model_with_a_perfect_labeller_scores_one(tmp_path: Path) -> None:
    (tmp_path / "trec.label").write_text(
        "".join(f"{label}:other Is this the question {n} of {label} ?\n" for label in NAMES for n in range(60))
    )
    tasks = ("oolong/trec_file", "oolong_pairs/trec_file")
    done = run(
        tmp_path, *tasks, "--trec", "trec.label", "-n", "3", "--lengths", "4k", "--accuracy", "1", "--out", "one"
    )
    assert done.returncode == 0, done.stderr
    assert [row["strict"] for row in rows(tmp_path / "one")] == [1] * 6


def test_root_and_sub_model_have_servers_and_keys_of_their_own(tmp_path: Path) -> None:
    plan = ("ruler/multikey_1", "--method", "direct", "--method", "map_reduce", "-n", "4")
    models = ("--lengths", "2k", "--model", "large", "--sub-model", "small", "--out", "one")
    with FakeProvider("FINAL(1)") as root, FakeProvider("a note") as sub:
        keys = {"OPENAI_BASE_URL": root.base_url, "OPENAI_API_KEY": "sk-root"}
        calls = {"RLM_SUB_API_KEY": "sk-calls"}
        done = run(tmp_path, *plan, *models, "--sub-base-url", sub.base_url, **keys, **calls)
        assert done.returncode == 0, done.stderr
        assert "Unclosed" not in done.stderr
        for server, model, key in ((root, "large", "sk-root"), (sub, "small", "sk-calls")):
            assert {(each.body["model"], each.headers["authorization"]) for each in server.requests} == {
                (model, f"Bearer {key}")
            }
        made = json.loads((tmp_path / "one" / "eval.json").read_text())
        assert (made["base_url"], made["sub_base_url"]) == (root.base_url, sub.base_url)
        assert "sk-" not in "".join(file.read_text() for file in (tmp_path / "one").glob("*.[jm]*"))
        moved = run(tmp_path, "--resume", "one", OPENAI_BASE_URL=sub.base_url)
        assert moved.returncode == 2
        assert f"used the server {root.base_url}" in moved.stderr


@pytest.mark.parametrize(
    ("arguments", "errors"),
    [
        (["nonsense"], "Unknown task 'nonsense'"),
        (["ruler/single_1", "--method", "magic"], "Unknown method 'magic'"),
        (["ruler/single_1", "--lengths", "long"], "Invalid length 'long'"),
        (["--resume", "nowhere"], "No evaluation found in nowhere"),
        (["--data", "nowhere.jsonl", "--model", "m"], "nowhere.jsonl (No such file or directory)"),
    ],
)
def test_a_usage_error_is_one_sentence(tmp_path: Path, arguments: list[str], errors: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("rlm: ")
    assert errors in done.stderr
    assert "Traceback" not in done.stderr
