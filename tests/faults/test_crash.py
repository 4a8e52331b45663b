"""An orchestrator killed without warning (SIGKILL), in the middle of a tree of real containers."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from helpers.containers import containers
from helpers.measured import Record, count, rows
from rlm import Completion, Limits, Orchestrator
from rlm.testing import FakeProvider

KILLS: Final = 20  # random moments of a run
ROOT = """```repl
import random
names = {f"name {i}" for i in range(8)}
picked = random.sample(sorted(names), 3) + list(names)[:1]
print(picked)
answers = llm_batch([f"Work on {name}" for name in picked], contexts=[context[i::4] for i in range(4)])
plain = llm_batch([f"plain {i} {random.random()}" for i in range(6)], recurse=False)
print(answers, plain)
```"""
CHILD = """```repl
parts = llm_batch([f"part {i} of {context[:20]}" for i in range(5)])
print(parts)
```"""
STARTED = """
import sys
from pathlib import Path
from rlm import Orchestrator
Orchestrator(depth=2, model="root", sub_model="child", level_models={2: "leaf"}, run_root=Path(sys.argv[1])).completion(
    "0123456789" * 10_000, "What comes of it?"
)
"""


def plays(messages: Sequence[Mapping[str, Any]], model: str) -> str:
    """A tree of depth 2: four children, each with five plain calls; the answers depend on everything read."""
    turn = sum(message["role"] == "assistant" for message in messages)
    seen = messages[-1]["content"]
    match model:
        case "root":
            return (
                [ROOT, "```repl\nprint(llm_query('one more'))\n```"][turn] if turn < 2 else f"FINAL({digest(messages)})"
            )
        case "child":
            return CHILD if turn == 0 else f"FINAL({digest(messages)})"
    return f"{len(seen)} {seen[-10:]}"


def digest(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(ord(character) * place for place, character in enumerate(str(messages)))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    with FakeProvider(plays, latency=0.02) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        yield provider


@pytest.fixture
def whole(provider: FakeProvider, tmp_path: Path) -> Completion:
    """The undisturbed run."""
    orchestrator = Orchestrator(
        depth=2, model="root", sub_model="child", level_models={2: "leaf"}, run_root=tmp_path / "whole"
    )
    return orchestrator.completion("0123456789" * 10_000, "What comes of it?")


def started(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", STARTED, str(root)], start_new_session=True)


def killed_at(provider: FakeProvider, root: Path, *, requests: int, delay: float = 0.0) -> int:
    """Start a run, and kill it shortly after the provider received this many requests. Returns its process."""
    before = len(provider.requests)
    with started(root) as process:
        while len(provider.requests) - before < requests and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
    wait_for_no_container(process.pid)
    return process.pid


def wait_for_no_container(pid: int) -> None:
    """A container that was created but not started never ends by itself: the next start removes it."""
    deadline = time.monotonic() + 15
    while set(containers(f"rlm.owner.pid={pid}")) - set(containers(f"rlm.owner.pid={pid}", status="created")):
        assert time.monotonic() < deadline, "containers of the killed orchestrator are left"
        time.sleep(0.1)


def bodies(provider: FakeProvider, since: int) -> Counter[str]:
    return Counter(str(request.body) for request in provider.requests[since:])


def check(
    provider: FakeProvider, whole: Completion, root: Path, *, since: int, ordered: bool = True
) -> tuple[Completion, int]:
    """Resume the only run in the folder, and check its answer and paid calls. Returns the number of lost calls.

    `ordered`: queries are made in the same order, so their nodes have the same numbers.
    """
    (run,) = root.iterdir()
    answered = rows(run)
    done = Orchestrator(run_root=root).resume(run.name)
    assert (done.answer, done.usage) == (whole.answer, whole.usage)
    assert done.by_node == whole.by_node or not ordered
    assert done.diverged == ()
    asked = bodies(provider, since)
    assert asked.keys() == bodies(provider, 0).keys()
    assert sum(asked.values()) - whole.usage.calls <= done.resent_calls
    assert (run / "answer.txt").read_text() == whole.answer
    return done, answered - done.replayed_calls


@pytest.mark.parametrize("requests", [0, 7, 33])
def test_a_killed_run_resumes_to_the_same_answer_and_only_calls_in_flight_are_sent_twice(
    provider: FakeProvider, whole: Completion, tmp_path: Path, requests: int, record_property: Record
) -> None:
    since = len(provider.requests)
    killed_at(provider, tmp_path / "killed", requests=max(1, requests))
    done, lost = check(provider, whole, tmp_path / "killed", since=since)
    assert lost == 0
    assert done.replayed_calls + done.resent_calls >= requests - 1
    count(record_property, faults=1, replays=1, lost=lost, resent_calls=done.resent_calls)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_killed_at_any_of_twenty_random_moments_resumes_and_loses_no_answered_call(
    provider: FakeProvider, whole: Completion, tmp_path: Path, record_property: Record
) -> None:
    seed = int(os.environ.get("RLM_KILL_SEED") or random.randrange(1 << 32))
    moments = random.Random(seed)
    resent_calls = replayed = lost = 0
    killed: list[int] = []
    for number in range(KILLS):
        since = len(provider.requests)
        requests, delay = moments.randint(1, whole.usage.calls - 1), moments.random() * 0.05
        print(f"RLM_KILL_SEED={seed}: kill {number} comes {1e3 * delay:.0f} ms after request {requests}")
        root = tmp_path / str(number)
        killed.append(killed_at(provider, root, requests=requests, delay=delay))
        done, gone = check(provider, whole, root, since=since)
        resent_calls += done.resent_calls
        replayed += done.replayed_calls
        lost += gone
    killed.append(killed_at(provider, tmp_path / "next start", requests=3))
    assert [container for pid in killed[:-1] for container in containers(f"rlm.owner.pid={pid}")] == []
    count(record_property, faults=KILLS, replays=KILLS, lost=lost, resent_calls=resent_calls)
    record_property("calls served from journals", replayed)
    record_property("RLM_KILL_SEED", seed)
    assert lost == 0
    assert resent_calls > 0


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_killed_at_every_resume_still_finishes(
    provider: FakeProvider, whole: Completion, tmp_path: Path, record_property: Record
) -> None:
    since = len(provider.requests)
    root = tmp_path / "killed"
    killed_at(provider, root, requests=3)
    (run,) = root.iterdir()
    resume = f"from rlm import Orchestrator; Orchestrator().resume({str(run)!r})"
    for _ in range(4):
        before = len(provider.requests)
        with subprocess.Popen([sys.executable, "-c", resume], start_new_session=True) as process:
            while len(provider.requests) - before < 8 and process.poll() is None:
                time.sleep(0.001)
            process.kill()
        wait_for_no_container(process.pid)
    answered = rows(run)
    done = Orchestrator(run_root=root).resume(run)
    assert (done.answer, done.usage, done.diverged) == (whole.answer, whole.usage, ())
    asked = bodies(provider, since)
    assert asked.keys() == bodies(provider, 0).keys()
    assert sum(asked.values()) - whole.usage.calls <= done.resent_calls
    lost = answered - done.replayed_calls
    assert lost == 0
    count(record_property, faults=5, replays=5, lost=lost, resent_calls=done.resent_calls)


def test_a_killed_sandbox_gets_its_variables_back_and_the_cell_runs_again_without_paying_twice(
    provider: FakeProvider, tmp_path: Path, record_property: Record
) -> None:
    """The second cell is running when its container is killed: it waits for its second call."""

    def replies(messages: Sequence[Mapping[str, Any]], model: str) -> str:
        if model == "leaf":
            if messages[-1]["content"] == "kill" and not killed.is_set():
                killed.set()
                (container,) = containers(f"rlm.owner.pid={os.getpid()}")
                subprocess.run(["docker", "kill", container], check=True, capture_output=True)
            return f"<{messages[-1]['content']}>"
        cells = [
            "import random\nkept = [llm_query('first'), random.random()]\nprint(kept)",
            "while True: pass",
            "a = llm_query('second')\nb = llm_query('kill')\nFINAL(repr([*kept, a, b, random.random()]))",
        ]
        return f"```repl\n{cells[(len(messages) - 2) // 2]}\n```"

    killed = threading.Event()
    provider.respond = replies
    done = Orchestrator(model="root", sub_model="leaf", run_root=tmp_path, limits=Limits(cell_seconds=1.0)).completion(
        "text", "q"
    )
    first, third = random.Random(0), re.findall(r"0\.\d+", done.answer)
    assert third == [repr(first.random()), repr(first.random())]
    assert "<first>" in done.answer
    assert done.answer.count("<") == 3
    asked = Counter(request.messages[-1]["content"] for request in provider.requests if request.body["model"] == "leaf")
    assert (asked["first"], asked["second"]) == (1, 1)
    assert done.resent_calls == asked["kill"] - 1
    assert done.sandboxes == 2
    count(record_property, faults=1, resent_calls=done.resent_calls)


THREADS = """```repl
from concurrent.futures import ThreadPoolExecutor
def ask(number):
    return llm_query(f"say {number}", **({} if number % 10 == 0 else {"recurse": False}))
with ThreadPoolExecutor(16) as pool:
    print(list(pool.map(ask, range(40))))
```"""


def test_threads_of_a_cell_may_ask_in_another_order_each_time(
    provider: FakeProvider, tmp_path: Path, record_property: Record
) -> None:
    """36 plain calls and 4 RLMs from 16 threads: killed, resumed, and replayed."""

    def replies(messages: Sequence[Mapping[str, Any]], model: str) -> str:
        if messages[0]["role"] != "system":
            return f"<{messages[-1]['content']}>"
        if model == "child" or len(messages) > 2:
            return f"FINAL({digest(messages)})"
        return THREADS

    provider.respond = replies
    options: dict[str, Any] = {"depth": 2, "model": "root", "sub_model": "child", "level_models": {2: "leaf"}}
    whole = Orchestrator(**options, run_root=tmp_path / "whole").completion("0123456789" * 10_000, "What comes of it?")
    since = len(provider.requests)
    killed_at(provider, tmp_path / "killed", requests=20)
    done, lost = check(provider, whole, tmp_path / "killed", since=since, ordered=False)
    assert lost == 0
    again = [body for body, times in bodies(provider, since).items() if times > 1]
    assert 0 < len(again) <= done.resent_calls <= 16 + 4
    paid = len(provider.requests)
    assert Orchestrator(run_root=tmp_path).replay(done.run_dir).answer == done.answer
    assert len(provider.requests) == paid
    count(record_property, faults=1, replays=2, lost=lost, resent_calls=done.resent_calls)


LIMITED = """
import resource, sys
from pathlib import Path
from rlm import JournalError, Orchestrator
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    Orchestrator(model="root", sub_model="leaf", run_root=Path(sys.argv[1])).completion("x" * int(sys.argv[2]), "q")
except JournalError as error:
    print(error)
"""


def on_a_full_disk(root: Path, *, context: int) -> str:
    """The one-line error of a run whose files cannot exceed 200 kB."""
    command = [sys.executable, "-c", LIMITED, str(root), str(context)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=50)
    (line,) = process.stdout.splitlines()
    return line


def test_a_full_disk_stops_the_run_before_it_pays_for_another_call(
    provider: FakeProvider, tmp_path: Path, record_property: Record
) -> None:
    cell = "```repl\nprint(llm_query('y' * 20_000, recurse=False))\n```"
    provider.respond = lambda messages, model: "z" * 20_000 if model != "root" else f"{len(messages)}\n{cell}"
    assert "Cannot write" in on_a_full_disk(tmp_path, context=1)
    paid = len(provider.requests)
    (run,) = tmp_path.iterdir()
    provider.respond = lambda messages, model: "FINAL(there is room again)"
    answered = rows(run)
    done = Orchestrator().resume(run)
    assert done.answer == "there is room again"
    assert done.replayed_calls >= paid - 1
    lost = answered - done.replayed_calls
    assert lost == 0
    count(record_property, faults=1, replays=1, lost=lost, resent_calls=done.resent_calls)


def test_a_context_that_does_not_fit_on_the_disk_costs_nothing(
    provider: FakeProvider, tmp_path: Path, record_property: Record
) -> None:
    assert "Cannot store the run's context" in on_a_full_disk(tmp_path, context=300_000)
    assert provider.requests == []
    count(record_property, faults=1)
