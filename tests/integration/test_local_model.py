"""A real small model at a real server: every request is accepted, and no reply of it breaks anything.

What the model says is not asserted, because nobody can know it. Weights and server are downloaded once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from local_model import model_server

from rlm import Limits, OpenAIModel, Orchestrator, PromptContext
from rlm.errors import ContextTooLong
from rlm.events import Compacted, Event, ModelReplied
from rlm.prompts import NO_SUMMARY, SUMMARIZE
from rlm.types import Message, ModelReply

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]  # the first test may have to download 127 MB

ROOT = Path(__file__).resolve().parent.parent.parent
RLM = str(Path(sys.executable).with_name("rlm"))
REPLY_TOKENS = 48  # a small model does not stop by itself
SMALL_WINDOW = 1_024

Address = tuple[str, str]  # base URL and name of the model


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with model_server(slots=1, window=8_192, max_reply_tokens=REPLY_TOKENS) as address:
        yield address


@pytest.fixture(scope="module")
def small_server() -> Iterator[Address]:
    with model_server(slots=1, window=SMALL_WINDOW, max_reply_tokens=REPLY_TOKENS) as address:
        yield address


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    keep = {"PATH": os.environ["PATH"], "HOME": str(folder), "COLUMNS": "120"}
    return subprocess.run(
        command, cwd=folder, env=keep | environment, capture_output=True, text=True, check=False, timeout=500
    )


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_niah_local_reads_the_text_with_the_downloaded_model(tmp_path: Path) -> None:
    script = str(ROOT / "scripts" / "niah_local.py")
    done = run(tmp_path, sys.executable, script, LINES="80", TRIALS="1", OUT="out")
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "out")
    assert row["error"] == ""
    assert row["failed_calls"] == 0
    assert row["stop_reason"] == "final"
    progress = re.findall(r"^niah-local: reply (\d+): '", done.stderr, re.MULTILINE)
    assert progress == [str(number + 1) for number in range(int(str(row["sub_calls"])))]
    assert re.search(r"\d of 1 right", done.stdout)
    assert re.search(r"a second; \d+ s of CPU time\.", " ".join(done.stdout.split()))


@pytest.mark.parametrize(
    ("length", "methods"),
    [("2k", ("direct", "map_reduce", "rlm:0", "rlm:1", "keyword")), ("4k", ("direct", "map_reduce"))],
)
def test_every_method_answers_with_a_real_model(
    tmp_path: Path, server: Address, length: str, methods: Sequence[str]
) -> None:
    url, name = server
    options = [option for method in methods for option in ("--method", method)]
    options += ["--model", name, "--lengths", length, "-n", "1", "--concurrency", "1", "--max-iterations", "3"]
    done = run(tmp_path, RLM, "eval", "ruler/single_2", *options, "--out", "out", OPENAI_BASE_URL=url)
    assert done.returncode == 0, done.stderr
    by_method = {row["method"]: row for row in rows(tmp_path / "out")}
    assert set(by_method) == set(methods)
    for method, row in by_method.items():
        assert row["error"] == "", method
        assert row["failed_calls"] == 0, method
        assert row["strict"] in (0, 1), method
        assert method == "keyword" or row["input_tokens"], method
    assert "Traceback" not in done.stderr
    assert "This run used real models." in (tmp_path / "out" / "report.md").read_text()


class Played(OpenAIModel):
    """Sends each conversation to the real server, so its counts and refusals are real; only cells are made up."""

    def __init__(self, address: Address, cells: Callable[[int], str]) -> None:
        url, name = address
        super().__init__(name, base_url=url, api_key="none")
        self._cells = cells
        self._turns = 0
        self.refused = list[str]()
        self.answered = 0

    async def find_window(self) -> None:
        """Leave the window unknown, although this server states it: a refusal has to teach it."""

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        summary = messages[-1].content.endswith(SUMMARIZE)
        try:
            reply = await super().complete(messages, max_tokens=REPLY_TOKENS if summary else 1)
        except ContextTooLong as error:
            self.refused.append(str(error))
            raise
        self.answered += 1
        if summary:
            return reply
        self._turns += 1
        return replace(reply, text=self._cells(self._turns), finish_reason="stop")


def long_output_until(last: int) -> Callable[[int], str]:
    """A cell in each turn that fills about an eighth of the small window, then an answer."""
    return lambda turn: (
        f"FINAL(done {turn})" if turn == last else f'```repl\nprint("turn {turn}", " ".join(context.split()[:90]))\n```'
    )


def short_prompt(facts: PromptContext) -> str:
    """The default one would fill half of the window."""
    return "Write Python in blocks marked ```repl."


@pytest.mark.anyio
async def test_a_conversation_outgrows_an_unknown_window_with_one_refusal(
    tmp_path: Path, small_server: Address
) -> None:
    seen = list[Event]()
    model = Played(small_server, long_output_until(12))
    orchestrator = Orchestrator(
        model=model,
        limits=Limits(max_iterations=14),
        system_prompt=short_prompt,
        run_root=tmp_path,
        on_event=seen.append,
    )
    completion = await orchestrator.acompletion("stone river amber cloud " * 200, "Which word comes most often?")
    assert (completion.answer, completion.stop_reason) == ("done 12", "final")
    assert len(model.refused) == 1, model.refused  # the window was learned from it
    summaries = [event.summary for event in seen if isinstance(event, Compacted)]
    assert len(summaries) >= 2
    assert NO_SUMMARY not in summaries  # the requests for summaries fit too
    replies = [event for event in seen if isinstance(event, ModelReplied)]
    assert len(replies) == model.answered == 12 + len(summaries)
    assert max(event.usage.input_tokens for event in replies) <= SMALL_WINDOW
