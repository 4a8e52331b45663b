"""Programs stop cleanly after one signal, and immediately after two. Their containers end soon after them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from helpers.containers import containers
from helpers.measured import Record, count, rows
from helpers.processes import interrupt
from rlm import Orchestrator
from rlm.testing import FakeProvider, Fault

pytestmark = pytest.mark.serial  # seconds are limited

MAKE: Final = """
import sys
from pathlib import Path
from rlm import Orchestrator
orchestrator = Orchestrator(depth=2, model="root", sub_model="child", run_root=Path(sys.argv[1]))
"""
COMPLETION: Final = "orchestrator.completion('some text', 'What comes of it?')"
STARTED: Final = """
with orchestrator.start("some text", "What comes of it?") as run:
    run.result()
"""
SESSION: Final = """
with orchestrator.session() as session:
    session.ask("What comes of it?", "some text")
"""


class Leaves:
    """A tree of depth 2 whose leaves (plain calls) hang until the test releases them."""

    def __init__(self) -> None:
        self.hang = True

    def __call__(self, messages: Sequence[Mapping[str, Any]], model: str) -> str | Fault:
        first = not any(message["role"] == "assistant" for message in messages)
        if len(messages) == 1:
            return Fault(sent="headers", then="hang") if self.hang else "a leaf"
        if not first:
            return "FINAL(the end)"
        call = "llm_batch(['a', 'b', 'c'])" if model == "root" else "llm_query('wait')"
        return f"```repl\nprint({call})\n```"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    with FakeProvider(Leaves()) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        yield provider


def begun(command: Sequence[str], provider: FakeProvider) -> subprocess.Popen[str]:
    """A program whose leaves have all been called."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 30
    while sum(len(request.messages) == 1 for request in provider.requests) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert len(containers(f"rlm.owner.pid={process.pid}")) == 4
    return process


def stopped(process: subprocess.Popen[str], *signals: signal.Signals) -> tuple[float, str]:
    """Seconds from the first signal to its end, and its output."""
    with process:
        asked = time.monotonic()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.02)
        _, errors = process.communicate(timeout=30)
    return time.monotonic() - asked, errors


def check_that_it_resumes(run: Path, provider: FakeProvider, record_property: Record, *, signals: int) -> None:
    assert isinstance(provider.respond, Leaves)
    provider.respond.hang = False
    answered = rows(run)
    done = Orchestrator().resume(run)
    assert (done.answer, done.stop_reason, done.resent_calls) == ("the end", "final", 3)
    lost = answered - done.replayed_calls
    assert lost == 0
    count(record_property, faults=signals, replays=1, lost=lost, resent_calls=done.resent_calls)


def wait_for_no_container(process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 15
    while containers(f"rlm.owner.pid={process.pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(COMPLETION, id="completion"),
        pytest.param(STARTED, id="start", marks=pytest.mark.long),
        pytest.param(SESSION, id="session", marks=pytest.mark.long),
    ],
)
def test_an_interrupted_script_stops_within_5_seconds_leaves_no_container_and_says_how_to_resume(
    provider: FakeProvider, tmp_path: Path, how: str, record_property: Record
) -> None:
    process = begun([sys.executable, "-c", MAKE + how, str(tmp_path)], provider)
    seconds, errors = stopped(process, signal.SIGINT)
    assert seconds < 5
    assert containers(f"rlm.owner.pid={process.pid}") == []
    (run,) = tmp_path.iterdir()
    assert errors.rstrip().endswith(f"KeyboardInterrupt\nTo continue this run: rlm resume {run}")
    assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
    check_that_it_resumes(run, provider, record_property, signals=1)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGINT, signal.SIGINT], id="interrupted twice", marks=pytest.mark.long),
        pytest.param([signal.SIGTERM], id="terminated", marks=pytest.mark.long),
    ],
)
def test_a_script_that_is_interrupted_twice_or_terminated_stops_too_and_can_be_resumed(
    provider: FakeProvider, tmp_path: Path, signals: Sequence[signal.Signals], record_property: Record
) -> None:
    """The library does not handle SIGTERM: the process ends immediately, and its containers see their channels close."""
    process = begun([sys.executable, "-c", MAKE + COMPLETION, str(tmp_path)], provider)
    seconds, _ = stopped(process, *signals)
    assert seconds < 5
    wait_for_no_container(process)
    check_that_it_resumes(next(tmp_path.iterdir()), provider, record_property, signals=len(signals))


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_command_stops_within_5_seconds_of_a_signal_and_says_how_to_resume(
    provider: FakeProvider, tmp_path: Path, number: signal.Signals, record_property: Record
) -> None:
    process = begun(command(tmp_path), provider)
    seconds, errors = stopped(process, number)
    assert seconds < 5
    assert process.returncode == 130
    assert containers(f"rlm.owner.pid={process.pid}") == []
    run = only_run(tmp_path)
    assert f"To continue this run: rlm resume {run}" in errors
    assert "Traceback" not in errors
    check_that_it_resumes(run, provider, record_property, signals=1)


@pytest.mark.parametrize("second", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_second_signal_stops_a_command_immediately(
    provider: FakeProvider, tmp_path: Path, second: signal.Signals, record_property: Record
) -> None:
    process = begun(command(tmp_path), provider)
    interrupt(process)
    seconds, errors = stopped(process, second)
    assert seconds < 0.5
    assert process.returncode == 128 + second
    assert "Exited immediately." in errors
    wait_for_no_container(process)
    check_that_it_resumes(only_run(tmp_path), provider, record_property, signals=2)


def only_run(folder: Path) -> Path:
    (run,) = (path.parent for path in folder.glob("*/run.json"))
    return run


def command(folder: Path) -> list[str]:
    rlm = str(Path(sys.executable).with_name("rlm"))
    return [
        rlm,
        "run",
        "why?",
        __file__,
        "--model",
        "root",
        "--sub-model",
        "child",
        "--depth",
        "2",
        "--runs",
        str(folder),
    ]
