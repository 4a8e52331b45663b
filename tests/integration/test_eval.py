"""An evaluation in real containers, killed at any moment, comes to the table of an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
SCORES = "## Cost and time"  # seconds come after it


def command(folder: Path, *arguments: str) -> dict[str, object]:
    keep = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "100"}
    return {"args": [RLM, "eval", *arguments], "cwd": folder, "env": keep, "text": True}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(folder, *arguments), capture_output=True, check=False, timeout=120)  # type: ignore[call-overload]


def killed(folder: Path, moment: float, *arguments: str) -> int:
    """Start it, and end it after so many seconds without a word; its status."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        **command(folder, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
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
def test_killed_at_random_moments_and_resumed_it_gives_the_same_table(tmp_path: Path, times: int) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    whole = run(tmp_path, *PLAN, "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    assert "This run used the scripted model" in scores(tmp_path / "whole")
    arguments = (*PLAN, "--out", "cut")
    for _ in range(times):
        killed(tmp_path, chance.uniform(1.0, 4.0), *arguments)
        if (tmp_path / "cut" / "eval.json").exists():
            arguments = ("--resume", "cut")
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert scores(tmp_path / "cut") == scores(tmp_path / "whole"), f"seed {seed}"
    written = [(row["task"], row["index"], row["method"]) for row in rows(tmp_path / "cut")]
    assert len(written) == len(set(written)) == 16, f"seed {seed}: an instance was done twice"


def test_its_report_and_comparison_come_from_the_rows_alone(tmp_path: Path) -> None:
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
    assert "ruler/single_1, keyword: no difference was seen" in compared.stdout, compared.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    process = subprocess.Popen(  # type: ignore[call-overload]
        **command(tmp_path, *PLAN, "-n", "40", "--out", "cut"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    patience = time.monotonic() + 30
    while not (tmp_path / "cut" / "results.jsonl").exists() or not rows(tmp_path / "cut"):
        assert time.monotonic() < patience
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - began < 6
    assert process.returncode == 130
    assert "rlm eval --resume cut" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "There is no task 'nonsense'"),
        (["ruler/single_1", "--method", "magic"], "There is no method 'magic'"),
        (["ruler/single_1", "--lengths", "long"], "'long' is no length"),
        (["--resume", "nowhere"], "There is no evaluation in nowhere"),
        (["--data", "nowhere.jsonl", "--model", "m"], "nowhere.jsonl cannot be read"),
    ],
)
def test_a_persons_mistake_is_one_sentence(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("rlm: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
