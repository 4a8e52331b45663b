"""The needle is found in real containers at several depths, and the examples give correct answers."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlm.testing import FakeProvider, Fault, in_order
from rlm.testing.policies import POLICIES
from rlm.types import Message

ROOT = Path(__file__).resolve().parent.parent.parent
RLM = str(Path(sys.executable).with_name("rlm"))


def niah(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [RLM, "niah", "--lines", "20000", "--out", str(folder / "out"), *arguments]
    keep = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "120"}
    return subprocess.run(command, cwd=folder, env=keep | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_scripted_model_finds_every_needle(tmp_path: Path, depth: int) -> None:
    facts = "0" if depth == 0 else "3"  # without calls, no model can read pieces
    done = niah(tmp_path, "--trials", "2", "--depth", str(depth), "--facts", facts)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [row["strict"] for row in rows] == [1] * (2 if depth == 0 else 3)
    assert all(row["answer"] == ", ".join(row["expected"]) for row in rows)
    assert all((tmp_path / "out" / row["run_dir"] / "events.jsonl").is_file() for row in rows)
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.startswith("This run used the scripted model")
    assert str(tmp_path) not in report


def test_the_same_command_runs_on_a_server_and_counts_what_it_counts(tmp_path: Path) -> None:
    def played(messages: Sequence[Mapping[str, Any]], model: str) -> str:
        asked = [Message(role=message["role"], content=message["content"]) for message in messages]
        return POLICIES["needle"](asked)

    with FakeProvider(played) as provider:
        done = niah(
            tmp_path, "--trials", "1", "--facts", "0", OPENAI_BASE_URL=provider.base_url, RLM_MODEL="some-model"
        )
        assert done.returncode == 0, done.stderr
        row = json.loads((tmp_path / "out" / "results.jsonl").read_text())
        assert row["strict"] == 1
        assert row["calls"] == len(provider.requests) == 3
        assert row["input_tokens"] == provider.input_tokens
        assert row["cost_usd"] is None
    assert "scripted" not in (tmp_path / "out" / "report.md").read_text()


def test_a_wrong_answer_is_a_result_and_not_a_failure(tmp_path: Path) -> None:
    with FakeProvider("FINAL(1111111)") as provider:
        done = niah(tmp_path, "--trials", "1", "--facts", "0", OPENAI_BASE_URL=provider.base_url)
    assert done.returncode == 0
    assert json.loads((tmp_path / "out" / "results.jsonl").read_text())["strict"] == 0


def niah_local(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script of `make niah-local` with a running server."""
    command = [sys.executable, str(ROOT / "scripts" / "niah_local.py")]
    keep = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "120", "OUT": "out", "TRIALS": "1"}
    return subprocess.run(
        command, cwd=folder, env=keep | {"LINES": "300"} | environment, capture_output=True, text=True, check=False
    )


def read(messages: Sequence[Mapping[str, Any]], model: str) -> str:
    """Replies as a small model does: with a number even if the piece has none."""
    found = re.search(r"The magic number is (\d+)", messages[-1]["content"])
    return found[1] if found else "The number is 1234567."


def test_a_small_models_replies_count_only_if_found_in_their_piece(tmp_path: Path) -> None:
    with FakeProvider(read) as provider:
        done = niah_local(tmp_path, LOCAL_URL=provider.base_url, LOCAL_MODEL="small")
        assert done.returncode == 0, done.stderr
        asked = [request.body for request in provider.requests]
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in asked} == {("small", 0, 32)}
    assert "1 of 1 right" in done.stdout
    pieces = len(asked) - 1  # the first request checks whether the server answers
    progress = re.findall(r"^niah-local: reply (\d+): '.+', \d+\.\d s$", done.stderr, re.MULTILINE)
    assert progress == [str(number) for number in range(1, pieces + 1)]
    assert f"{pieces} replies: {pieces} contained a number, {pieces - 1} a number that is not in the piece" in (
        " ".join(done.stdout.split())
    )
    report = (tmp_path / "out" / "report.md").read_bytes()
    assert b"a real model as sub-model beside a scripted root model" in report
    again = subprocess.run([RLM, "eval", "report", "out"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "report.md").read_bytes() == report
    taken = niah_local(tmp_path, LOCAL_URL="http://127.0.0.1:1/v1")
    assert (taken.returncode, taken.stderr) == (
        1,
        "error: out already contains results. Choose another folder with OUT=.\n",
    )


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({"LINES": "many"}, "error: Invalid LINES=many: use a number of at least 20.\n"),
        (
            {"LOCAL_MODEL": "gpt-5"},
            "error: Invalid LOCAL_MODEL=gpt-5: use smollm2-135m-instruct, qwen2.5-coder-0.5b-instruct, "
            "qwen2.5-coder-1.5b-instruct, or set LOCAL_GGUF or LOCAL_URL.\n",
        ),
        ({"LOCAL_GGUF": "gone.gguf"}, "error: gone.gguf does not exist. Set LOCAL_GGUF to the path of a GGUF file.\n"),
        ({"LOCAL_URL": "http://127.0.0.1:1/v1"}, "error: The model server 127.0.0.1:1 cannot be reached"),
    ],
)
def test_a_usage_error_with_a_local_model_is_one_sentence_and_leaves_no_folder(
    tmp_path: Path, environment: dict[str, str], error: str
) -> None:
    done = niah_local(tmp_path, **environment)
    assert done.returncode == 1
    assert done.stderr.startswith(error)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_failed_calls_are_a_failure_not_a_wrong_answer(tmp_path: Path) -> None:
    with FakeProvider(in_order("Yes.", Fault(status=400))) as provider:
        done = niah_local(tmp_path, LOCAL_URL=provider.base_url)
    assert done.returncode == 1
    assert re.search(r"^\d calls failed, the first with: .*400", done.stderr, re.MULTILINE), done.stderr


@pytest.mark.parametrize("name", ["batch", "depth", "folder"])
def test_an_example_gives_the_right_answer(tmp_path: Path, name: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / f"example_{name}.py")]
    keep = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=keep, capture_output=True, text=True, check=True)
    answer = {"batch": "Right: True.", "depth": "Answer: 2016 (expected 2016). 21 containers", "folder": ", right)."}
    assert answer[name] in done.stdout


def test_an_engine_that_does_not_answer_is_one_sentence_and_a_failure(tmp_path: Path) -> None:
    done = niah(tmp_path, "--trials", "1", "--facts", "0", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 1
    assert "Trial 1 failed: EngineUnavailable: The Docker engine at unix://" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    row = json.loads((tmp_path / "out" / "results.jsonl").read_text())
    assert row["strict"] is None
    assert row["error"].startswith("EngineUnavailable: The Docker engine at unix://")
    assert "0 of 0 right, 1 failed" in (tmp_path / "out" / "report.md").read_text()
