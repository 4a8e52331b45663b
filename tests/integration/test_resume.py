"""The commands about runs, on a run that Ctrl-C stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlm.testing import FakeProvider

CELL = "```repl\nprint(llm_query('what is in ' + context[:10]))\n```"


def plays(messages: Sequence[Mapping[str, Any]], model: str) -> str:
    if model == "sub":
        return "a \ud83d\ude00"
    return CELL if len(messages) < 6 else "FINAL(a good\nanswer)"


def rlm(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("rlm")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=50)


def test_after_ctrl_c_the_printed_resume_replay_and_runs_commands_work(tmp_path: Path) -> None:
    with FakeProvider(plays, latency=0.05) as provider:
        environment = os.environ | {
            "OPENAI_BASE_URL": provider.base_url,
            "OPENAI_API_KEY": "test",
            "COLUMNS": "200",
            "XDG_STATE_HOME": str(tmp_path),
        }
        command = [str(Path(sys.executable).with_name("rlm")), "run", "why?", __file__, "--model", "root"]
        command += ["--sub-model", "sub", "--depth", "1", "--runs", str(tmp_path / "runs")]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            while len(provider.requests) < 3:
                assert process.poll() is None
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        (run,) = (path.parent for path in (tmp_path / "runs").glob("*/run.json"))
        assert f"rlm resume {run}" in errors

        listed = rlm(environment, "runs", "--runs", str(tmp_path / "runs"))
        assert run.name in listed.stdout
        assert "interrupted" in listed.stdout
        early = rlm(environment, "replay", str(run))
        assert (early.returncode, early.stdout) == (2, "")
        assert "has not finished" in early.stderr

        resumed = rlm(environment, "resume", str(run))
        assert (resumed.returncode, resumed.stdout) == (0, "a good\nanswer\n")
        assert "Reused 2 recorded model calls; 1 call was in flight and may be billed twice." in resumed.stderr
        assert len(provider.requests) == 5 + 1

    replayed = rlm(environment, "replay", run.name, "--runs", str(run.parent))
    assert replayed.returncode == 0
    assert "Same answer, from 5 recorded calls." in replayed.stderr
    again = rlm(environment, "resume", str(run))
    assert again.returncode == 2
    assert "has already finished. Its answer is in" in again.stderr
    assert again.stderr.count("\n") == 1
    (run / "answer.txt").write_text("another")
    differs = rlm(environment, "replay", str(run))
    assert differs.returncode == 1
    assert "The answer of the replay differs." in differs.stderr
    (run / "run.json").write_text("{}")
    assert "damaged" in rlm(environment, "runs", "--runs", str(run.parent)).stdout


@pytest.mark.timeout(180)  # four commands: 15 s on a quiet machine
def test_a_run_that_a_limit_ended_resumes_with_a_higher_one(tmp_path: Path) -> None:
    with FakeProvider(plays) as provider:
        environment = os.environ | {"OPENAI_BASE_URL": provider.base_url, "OPENAI_API_KEY": "test"}
        command = ["run", "why?", __file__, "--model", "root", "--sub-model", "sub", "--runs", str(tmp_path), "-q"]
        assert rlm(environment, *command, "--max-lm-calls", "4").returncode == 3
        (run,) = tmp_path.iterdir()
        refused = rlm(environment, "resume", str(run))
        assert refused.returncode == 2
        assert " It stopped at max_lm_calls: raise that limit to continue." in refused.stderr
        before = len(provider.requests)
        resumed = rlm(environment, "resume", str(run), "--max-lm-calls", "20")
        assert (resumed.returncode, resumed.stdout) == (0, "a good\nanswer\n")
        assert before + 3 > len(provider.requests) > before
    assert rlm(environment, "replay", str(run)).returncode == 0
