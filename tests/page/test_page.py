"""The page of a run in a real Chromium: it shows what happened, and executes nothing that it shows.

Needs chromium, node, and the packages of `viewer/` (`make viewer/node_modules`).
"""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.attack_texts import ATTACKS, attacked_run
from rlm import Orchestrator
from rlm.evals.tasks.niah import make_haystack
from rlm.events import (
    AnswerReplayed,
    CellFinished,
    CellStarted,
    LimitsRaised,
    ModelReplied,
    QuestionAsked,
    ReplayDiverged,
    RLMFinished,
    RLMStarted,
    RunFinished,
    RunResumed,
    RunStarted,
    SubCallFinished,
    SubCallStarted,
    ToolUsed,
    TurnStarted,
)
from rlm.store.event_log import EventLog
from rlm.testing import scripted_model_for
from rlm.trajectory.run_reader import read_run
from rlm.trajectory.view.page import write_page
from rlm.types import CellResult, Usage

VIEWER = Path(__file__).parents[2] / "viewer"
ASSETS = Path(__file__).parents[2] / "rlm" / "trajectory" / "view" / "assets"

missing = [
    what
    for what, is_there in (
        ("node", shutil.which("node")),
        ("chromium", os.environ.get("CHROMIUM") or Path("/usr/bin/chromium").exists()),
        ("viewer/node_modules", (VIEWER / "node_modules").is_dir()),
    )
    if not is_there
]
pytestmark = pytest.mark.skipif(
    bool(missing) and "CI" not in os.environ,  # in CI, they fail: a skipped check proves nothing
    reason=f"missing: {', '.join(missing)}",
)


@pytest.fixture(scope="module")
def tree_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run: RLMs call RLMs, each in a container."""
    orchestrator = Orchestrator(depth=2, model=scripted_model_for("tree"), run_root=tmp_path_factory.mktemp("runs"))
    return orchestrator.completion(list(range(64)), "What is the sum of these numbers?").run_dir


@pytest.fixture(scope="module")
def facts_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A real run that reads a text in slices, and the file of that text."""
    folder = tmp_path_factory.mktemp("runs")
    trial = make_haystack(number=1, lines=2_000, seed=7, facts=3)
    (folder / "context.txt").write_text(trial.context)
    done = Orchestrator(model=scripted_model_for("facts"), run_root=folder).completion(trial.context, trial.query)
    return done.run_dir, folder / "context.txt"


def visit(scenario: str, page: Path) -> None:
    """Run a scenario of viewer/tests on a page."""
    command = ["node", str(VIEWER / "tests" / "run.mjs"), scenario, str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("scenario", ["tree", "narrow", "print"])
def test_a_real_run_can_be_navigated_and_printed(scenario: str, tree_run: Path, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", read_run(tree_run))
    visit(scenario, tmp_path / "page.html")


def test_an_answer_links_to_its_calls_and_to_its_place_in_the_context(
    facts_run: tuple[Path, Path], tmp_path: Path
) -> None:
    write_page(tmp_path / "page.html", read_run(*facts_run))
    visit("slices", tmp_path / "page.html")


def test_every_view_is_accessible_in_light_and_dark(facts_run: tuple[Path, Path], tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", read_run(*facts_run))
    visit("accessible", tmp_path / "page.html")


def test_two_runs_are_shown_side_by_side(tree_run: Path, facts_run: tuple[Path, Path], tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", read_run(tree_run), read_run(facts_run[0]))
    visit("two", tmp_path / "page.html")


def test_an_unfinished_run_is_shown_up_to_its_last_event(tree_run: Path, tmp_path: Path) -> None:
    events = (tree_run / "events.jsonl").read_text()
    (tmp_path / "events.jsonl").write_text(events[: events.index("SubCallFinished") + 30])
    write_page(tmp_path / "page.html", read_run(tmp_path))
    visit("unfinished", tmp_path / "page.html")


def test_resumptions_replayed_replies_and_host_function_calls_are_shown(tmp_path: Path) -> None:
    resumed_run(tmp_path)
    write_page(tmp_path / "page.html", read_run(tmp_path))
    visit("resumed", tmp_path / "page.html")


def test_thinking_is_folded_in_front_of_its_reply_and_found_by_search(tmp_path: Path) -> None:
    thinking_run(tmp_path)
    write_page(tmp_path / "page.html", read_run(tmp_path))
    visit("thinking", tmp_path / "page.html")


def test_a_run_that_a_limit_stopped_without_an_answer_says_so(tmp_path: Path) -> None:
    with (tmp_path / "events.jsonl").open("w") as file:
        log = EventLog("stopped", file, [])
        log.emit(RunStarted(query="How much?", depth=1, models={0: "m"}, context_bytes=1))
        log.emit(RLMStarted(level=0, depth=1, model="m", sandbox="s", context_type="str", context_size=1))
        log.emit(TurnStarted(turn=1, of=9))
        log.emit(RLMFinished(answer="", stop_reason="max_tokens", iterations=1))
        log.emit(RunFinished(stop_reason="max_tokens", usage=Usage(), seconds=0.3))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    timed = [json.dumps(event | {"ts": 1_000 + 0.076 * number}) for number, event in enumerate(events)]
    (tmp_path / "events.jsonl").write_text("\n".join(timed))  # 304 ms puts the timeline's last label near its end
    write_page(tmp_path / "page.html", read_run(tmp_path))
    visit("stopped", tmp_path / "page.html")


def test_a_page_full_of_attacks_executes_requests_and_logs_nothing(tmp_path: Path) -> None:
    attacked_run(tmp_path)
    context = tmp_path / "context.txt"
    context.write_text("\n".join(ATTACKS), "utf-8", "surrogatepass")
    write_page(tmp_path / "page.html", read_run(tmp_path, context))
    visit("attacks", tmp_path / "page.html")


def test_the_policy_of_the_page_blocks_markup_requests_scripts_and_styles(tmp_path: Path) -> None:
    attacked_run(tmp_path)
    write_page(tmp_path / "page.html", read_run(tmp_path))
    visit("policy", tmp_path / "page.html")


@pytest.mark.serial
@pytest.mark.parametrize("words", [300, pytest.param(1_600, marks=[pytest.mark.long, pytest.mark.timeout(240)])])
def test_ten_thousand_calls_open_within_two_seconds(words: int, tmp_path: Path) -> None:
    """With 1,600 words a prompt, the run has 100 MB of text."""
    for name, calls in (("page", 3), ("large", 10_000)):
        folder = tmp_path / name
        folder.mkdir()
        with (folder / "events.jsonl").open("w") as file:
            many_calls(EventLog(name, file, []), calls, words)
        write_page(tmp_path / f"{name}.html", read_run(folder))
    assert (tmp_path / "large" / "events.jsonl").stat().st_size > words * 10_000 * 6
    visit("large", tmp_path / "page.html")
    visit("printed", tmp_path / "page.html")


def resumed_run(folder: Path) -> None:
    """A resumed run that diverged, with one call from the journal and a cell that calls host functions."""
    usage = Usage(calls=1, input_tokens=10, output_tokens=2)
    reply = ModelReplied(role="root", model="m", text="Then.", finish_reason="stop", usage=usage, seconds=0.01)
    with (folder / "events.jsonl").open("w") as file:
        log = EventLog("resumed", file, [])
        log.emit(RunStarted(query="How much?", depth=2, models={0: "m"}, context_bytes=1))
        log.emit(RunResumed(recorded=5, in_flight=2))
        log.emit(RLMStarted(level=0, depth=2, model="m", sandbox="s", context_type="str", context_size=1))
        log.emit(TurnStarted(turn=1, of=9))
        log.emit(replace(reply, replayed=True))
        log.emit(CellStarted(cell=1, code="print(price('apples'), llm_query('Which?', context))"))
        for number in range(12):
            log.emit(ToolUsed(tool="price", arguments=f"('apples', {number})", ok=number != 2, seconds=0.02))
        log.emit(SubCallStarted(node="0.1", prompt="Which?", model="m", recursive=True, batch=0))
        log.emit(AnswerReplayed(node="0.1", below=["0.1.1"]))
        log.emit(SubCallFinished(node="0.1", ok=True, text="The red ones.", seconds=0.0))
        log.emit(CellFinished(cell=1, result=CellResult(outcome="ok", stdout="3 The red ones.\n")))
        log.emit(TurnStarted(turn=2, of=9))
        log.emit(ReplayDiverged(ordinal=2))
        log.emit(replace(reply, text="FINAL(3)"))
        log.emit(RLMFinished(answer="3", stop_reason="final", iterations=2))
        log.emit(LimitsRaised(limits={"max_lm_calls": 20_000, "max_seconds": None}))
        log.emit(QuestionAsked(query="And in autumn?", context_bytes=1_500))
        log.emit(TurnStarted(turn=1, of=9))
        log.emit(replace(reply, text="FINAL(4)"))
        log.emit(RLMFinished(answer="4", stop_reason="final", iterations=1))
        log.emit(RunFinished(stop_reason="final", usage=usage, seconds=1.0))


def thinking_run(folder: Path) -> None:
    """A root that thinks for 200,000 characters and then for 30, and a call that thinks."""
    usage = Usage(calls=1, input_tokens=10, output_tokens=2, reasoning_tokens=1)
    reply = ModelReplied(role="root", model="m", text="Look.", finish_reason="stop", usage=usage, seconds=0.01)
    long = "".join(f"{number:>6}: is the needle in this line?\n" for number in range(6_000))
    with (folder / "events.jsonl").open("w") as file:
        log = EventLog("thinking", file, [])
        log.emit(RunStarted(query="Where is it?", depth=1, models={0: "m"}, context_bytes=1))
        log.emit(RLMStarted(level=0, depth=1, model="m", sandbox="s", context_type="str", context_size=1))
        log.emit(TurnStarted(turn=1, of=9))
        log.emit(replace(reply, thinking=long[:199_990] + "zanzibar\n."))
        log.emit(CellStarted(cell=1, code="print(llm_query('Is it here?'))"))
        log.emit(SubCallStarted(node="0.1", prompt="Is it here?", model="m", recursive=False, batch=0))
        log.emit(replace(reply, node="0.1", role="sub", text="No.", thinking="It may be in timbuktu."))
        log.emit(SubCallFinished(node="0.1", ok=True, text="No.", seconds=0.0))
        log.emit(CellFinished(cell=1, result=CellResult(outcome="ok", stdout="No.\n")))
        log.emit(TurnStarted(turn=2, of=9))
        log.emit(replace(reply, text="FINAL(nowhere)", thinking="FINAL(somewhere) is no answer."))
        log.emit(RLMFinished(answer="nowhere", stop_reason="final", iterations=2))
        log.emit(RunFinished(stop_reason="final", usage=usage, seconds=1.0))


def many_calls(log: EventLog, calls: int, words: int) -> None:
    """A run with `calls` calls and `words` words in the prompt of each."""
    log.emit(RunStarted(query="q", depth=1, models={0: "m"}, context_bytes=1))
    log.emit(RLMStarted(level=0, depth=1, model="m", sandbox="s", context_type="str", context_size=1))
    log.emit(TurnStarted(turn=1, of=1))
    usage = Usage(calls=1)
    for number in range(1, calls + 1):
        node, prompt = f"0.{number}", " ".join(f"{number * factor:x}" for factor in range(1, words))
        log.emit(SubCallStarted(node=node, prompt=prompt, model="m", recursive=False, batch=1))
        log.emit(
            ModelReplied(node=node, role="sub", model="m", text="no", finish_reason="stop", usage=usage, seconds=0.001)
        )
        log.emit(SubCallFinished(node=node, ok=True, text="no", seconds=0.001))


def test_the_built_viewer_matches_its_sources(tmp_path: Path) -> None:
    command = ["node_modules/.bin/vite", "build", "--outDir", str(tmp_path / "assets"), "--logLevel", "error"]
    subprocess.run(command, cwd=VIEWER, check=True, timeout=55)
    for name in ("viewer.js", "viewer.css"):
        built = (tmp_path / "assets" / name).read_bytes()
        assert built == (ASSETS / name).read_bytes(), f"{name} does not match its sources: run `make viewer`"
