"""A run replays and resumes to the same end for every stop reason, without paying again. Its limit can be raised."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm import ConfigError, JournalError, Limits, Orchestrator, Price, ScriptedModel
from rlm.errors import ContextTooLong
from rlm.events import TurnStarted
from rlm.loop.control import RunControl
from rlm.prompts import SUMMARIZE
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.testing import FakeSandboxes, echo_cell
from rlm.types import CellResult, Completion, Message, ModelReply

pytestmark = pytest.mark.anyio

PRICES = {"root": Price(input=1000, output=1000), "sub": Price(input=1000, output=1000)}
MANY: dict[str, Any] = {"max_lm_calls": 100, "max_tokens": 10**6, "max_cost_usd": 10**6, "max_seconds": 60.0}


class Silent(ScriptedModel):
    """Never replies when it has to stop."""

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        if "have to stop" in messages[-1].content and "And then?" not in messages[-1].content:
            await anyio.sleep_forever()
        return await super().complete(messages, max_tokens=max_tokens)


@pytest.fixture(autouse=True)
def short_last_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunControl, "last_turn", lambda self: anyio.move_on_after(0.5))


@dataclass
class Play:
    """How a run ends. Its root calls a model in each turn, and answers after `turns`, or at its last turn."""

    limits: Limits = field(default_factory=Limits)
    turns: int = 3
    cell: str = "ask"
    room: int | None = None  # in characters, of the root's window, which is unknown
    window: int | None = None  # in tokens, as the root's model reports it
    stop_at: int | None = None  # the turn in which a person asks for the answer
    stop_in: int | None = None  # the same, while the reply is being written to the journal
    stop_in_cell: str | None = None  # the same, while this one runs
    final: str = "FINAL(all {})"
    answer_now: Callable[[], None] = lambda: None
    silent: bool = False  # its model never replies when it has to stop
    paid: int = 0

    def root(self, messages: Sequence[Message]) -> str:
        if self.room is not None and sum(len(message.content) for message in messages[1:]) > self.room:
            raise ContextTooLong("the window is smaller")
        self.paid += 1
        if "have to stop" in messages[-1].content:
            return "FINAL(so far)"
        if messages[-1].content == SUMMARIZE:
            return "what there was"
        turn = re.search(r"This is turn (\d+) of", messages[-1].content)  # older turns may have been dropped
        taken = 0 if turn is None else int(turn[1]) - 1
        if taken + 1 == self.stop_in:
            self.answer_now()
        return f"```repl\n{self.cell} {taken}\n```" if taken < self.turns else self.final.format(len(messages))

    def sub(self, messages: Sequence[Message]) -> str:
        self.paid += 1
        return f"<{messages[-1].content}>" + "." * 400

    async def behaviour(self, code: str, answer: Answer | None) -> CellResult:
        if self.stop_in_cell is not None and code.startswith(self.stop_in_cell):
            self.stop_in_cell = None
            self.answer_now()
            await anyio.sleep_forever()
        if code.startswith("FINAL_VAR"):
            return CellResult(outcome="ok", answer="the variable")
        if code.startswith("bad"):
            return CellResult(outcome="error", error="NameError")
        if answer is None or not code.startswith(("ask", "hang")):
            return await echo_cell(code, answer)
        query = SandboxQuery(call=1, batch=0, prompt=code, context=None, model=None, recurse=False)
        reply = await answer(query)
        if code == "hang 1":
            await anyio.sleep_forever()
        return CellResult(outcome="ok", stdout=reply.text)

    def orchestrator(self, folder: Path, **options) -> Orchestrator:
        return Orchestrator(
            model=(Silent if self.silent else ScriptedModel)(self.root, name="root", context_window=self.window),
            sub_model=ScriptedModel(self.sub, name="sub"),
            sandbox_factory=FakeSandboxes(self.behaviour),
            run_root=folder,
            **options,
        )

    async def run(self, folder: Path) -> Completion:
        async with self.orchestrator(folder, limits=self.limits, prices=PRICES).start("text", "why?") as run:
            self.answer_now = run.answer_now
            async for event in run:
                if isinstance(event, TurnStarted) and event.turn == self.stop_at:
                    run.answer_now()
            return await run


ENDS: dict[str, tuple[str, Callable[[], Play]]] = {
    "final": ("final", Play),
    "turns": ("max_iterations", lambda: Play(limits=Limits(max_iterations=2))),
    "calls": ("max_lm_calls", lambda: Play(limits=Limits(max_lm_calls=4))),
    "tokens": ("max_tokens", lambda: Play(limits=Limits(max_tokens=9_000), turns=9)),
    "dollars": ("max_cost_usd", lambda: Play(limits=Limits(max_cost_usd=9.0), turns=9)),
    "deadline": ("max_seconds", lambda: Play(limits=Limits(max_seconds=0.3), cell="hang")),
    "a last turn cut off": ("max_lm_calls", lambda: Play(limits=Limits(max_lm_calls=4), silent=True)),
    "errors": ("max_consecutive_errors", lambda: Play(limits=Limits(max_consecutive_errors=2), cell="bad")),
    "a person": ("stopped", lambda: Play(stop_at=3, turns=9)),
    "a person as a reply comes": ("stopped", lambda: Play(stop_in=3, turns=9)),
    "a person in a variable": ("stopped", lambda: Play(stop_in_cell="FINAL_VAR", final="FINAL_VAR(v)")),
    "a person in a summary": ("stopped", lambda: Play(stop_in_cell="SHOW_VARS", window=2_000, turns=12)),
    "a small window": ("final", lambda: Play(room=2_600, turns=6)),
    "a known window": ("final", lambda: Play(window=2_000, turns=12)),
}
LIMITS = ("calls", "tokens", "dollars", "deadline", "a last turn cut off")
by_end = pytest.mark.parametrize("end", ENDS)


async def ended(end: str, folder: Path) -> tuple[Play, Completion]:
    reason, make = ENDS[end]
    play = make()
    done = await play.run(folder)
    assert done.stop_reason == reason
    return play, done


def same(done: Completion, whole: Completion) -> bool:
    def of(each: Completion) -> tuple[object, ...]:
        return (each.answer, each.stop_reason, each.iterations, each.usage, each.by_node)

    return of(done) == of(whole) and done.diverged == ()


@by_end
async def test_a_finished_run_is_replayed(tmp_path: Path, end: str) -> None:
    play, whole = await ended(end, tmp_path)
    paid = play.paid
    assert same(await play.orchestrator(tmp_path).areplay(whole.run_dir), whole)
    assert play.paid == paid


@by_end
async def test_a_run_that_was_killed_when_it_had_its_answer_is_resumed(tmp_path: Path, end: str) -> None:
    play, whole = await ended(end, tmp_path)
    paid = play.paid
    record = json.loads((whole.run_dir / "run.json").read_text())
    (whole.run_dir / "run.json").write_text(json.dumps(record | {"state": "running", "ended": None}))
    assert same(await play.orchestrator(tmp_path).aresume(whole.run_dir), whole)
    assert play.paid == paid


@by_end
async def test_a_session_continues_after_a_limit_with_raised_limits(tmp_path: Path, end: str) -> None:
    play, whole = await ended(end, tmp_path)
    paid = play.paid
    limits = replace(play.limits, **MANY)
    async with play.orchestrator(tmp_path).session(resume=whole.run_dir, limits=limits) as session:
        (first,) = session.completions
        assert same(first, whole)
        assert play.paid == paid
        play.turns, play.room = 0, None
        assert (await session.aask("And then?")).stop_reason == "final"
    # The summary is still missing, or the further question needs one.
    paid += 1 + (end in ("a person in a summary", "a known window"))
    assert play.paid == paid
    replayed = await play.orchestrator(tmp_path).areplay(whole.run_dir)
    assert (replayed.stop_reason, play.paid) == ("final", paid)


@by_end
async def test_a_finished_run_resumes_only_if_the_limit_that_ended_it_is_raised(tmp_path: Path, end: str) -> None:
    play, whole = await ended(end, tmp_path)
    copy = Path(shutil.copytree(whole.run_dir, tmp_path / "copy" / "run"))
    paid = play.paid
    limits = replace(play.limits, **MANY)
    shared = play.orchestrator(tmp_path)
    if end not in LIMITS:
        with pytest.raises(ConfigError, match=r"has already finished\. Its answer is in .* again offline\.$"):
            await shared.aresume(copy, limits=limits)
        return
    with pytest.raises(
        ConfigError, match=r"has already finished\. .* It stopped at max_\w+: raise that limit to continue\.$"
    ):
        await shared.aresume(copy)
    play.behaviour = says_after_asking  # type: ignore[method-assign]
    done = await play.orchestrator(tmp_path).aresume(copy, limits=limits)
    assert (done.stop_reason, done.iterations, done.diverged) == ("final", play.turns + 1, ())
    # Paid calls are not paid again; the call for the early answer counts, too.
    assert done.usage.calls == play.paid == paid + done.usage.calls - whole.usage.calls
    assert (await play.orchestrator(tmp_path).areplay(copy)).answer == done.answer
    with pytest.raises(ConfigError, match="has already finished"):
        await shared.aresume(copy)


@pytest.mark.parametrize("end", ["calls", "deadline"])
async def test_a_failed_resume_with_a_raised_limit_can_be_retried(tmp_path: Path, end: str) -> None:
    play, whole = await ended(end, tmp_path)
    limits = replace(play.limits, **MANY)
    play.behaviour = says_after_asking  # type: ignore[method-assign]
    with pytest.raises(JournalError, match="Cannot use"):
        await play.orchestrator(tmp_path, cache=tmp_path).aresume(whole.run_dir, limits=limits)
    done = await play.orchestrator(tmp_path).aresume(whole.run_dir)  # the raised limit is in the record
    assert (done.stop_reason, done.iterations, done.diverged) == ("final", play.turns + 1, ())
    assert done.usage.calls == play.paid


async def says_after_asking(code: str, answer: Answer | None) -> CellResult:
    """The behaviour of a Play without hanging."""
    assert answer is not None
    query = SandboxQuery(call=1, batch=0, prompt=code, context=None, model=None, recurse=False)
    return CellResult(outcome="ok", stdout=(await answer(query)).text)


async def test_a_raised_limit_stays_raised(tmp_path: Path) -> None:
    play, whole = await ended("calls", tmp_path)
    done = await play.orchestrator(tmp_path).aresume(whole.run_dir, limits=Limits(max_lm_calls=6))
    assert done.stop_reason == "max_lm_calls"
    record = json.loads((whole.run_dir / "run.json").read_text())
    assert (record["limits"]["max_lm_calls"], record["raised"]) == (4, {"max_lm_calls": 6})
    with pytest.raises(ConfigError, match="has already finished"):
        await play.orchestrator(tmp_path).aresume(whole.run_dir, limits=Limits(max_lm_calls=6))
    done = await play.orchestrator(tmp_path).aresume(whole.run_dir, limits=Limits(max_lm_calls=60))
    assert (done.stop_reason, done.usage.calls) == ("final", play.paid)
