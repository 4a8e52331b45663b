"""A session keeps sandbox, conversation and budget over its questions, and resumes after a crash without paying again."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from rlm import ConfigError, JournalError, LimitExceeded, Limits, ModelError, Orchestrator, ScriptedModel, Session
from rlm.events import Event, QuestionAsked, RLMFinished, RunFinished, RunResumed
from rlm.loop.rlm import NO_ANSWER
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.testing import FakeSandboxes, echo_cell
from rlm.types import CellResult, Message, ModelReply

pytestmark = pytest.mark.anyio


class Root:
    """Runs one cell a question, then answers with the number of messages read. `paid` counts the calls sent."""

    def __init__(self, *, cell: str = "look", fails_at: int | None = None) -> None:
        self.cell = cell
        self.fails_at = fails_at
        self.paid = 0
        self.seen: list[Sequence[Message]] = []
        self.model = ScriptedModel(self._reply, name="root")

    def _reply(self, messages: Sequence[Message]) -> str:
        if messages[0].role == "user":
            return "a plain answer"
        self.paid += 1
        if self.paid == self.fails_at:
            raise ModelError("the provider is down")
        self.seen.append(messages)
        latest = messages[-1].content
        if "have to stop" in latest:
            return f"FINAL(stopped after {len(messages)})"
        return f"FINAL(read {len(messages)})" if "uestion:" not in latest else f"```repl\n{self.cell}\n```"


def orchestrator(root: Root, folder: Path, **options) -> Orchestrator:
    given = {"sandbox_factory": FakeSandboxes(), "run_root": folder, "sub_model": root.model, **options}
    return Orchestrator(model=root.model, **given)


def crash(run: Path, copy: Path) -> Path:
    """The directory that a process killed between two questions leaves."""
    shutil.copytree(run, copy)
    record = json.loads((copy / "run.json").read_text())
    record["state"] = "running"
    (copy / "run.json").write_text(json.dumps(record))
    return copy


def directory(session: Session) -> Path:
    assert session.directory is not None
    return session.directory


async def test_all_questions_share_one_sandbox_one_conversation_and_one_budget(tmp_path: Path) -> None:
    root, sandboxes, seen = Root(), FakeSandboxes(), list[Event]()
    rlm = orchestrator(root, tmp_path, sandbox_factory=sandboxes, on_event=seen.append)
    async with rlm.session() as session:
        first = await session.aask("how many?", "the first text")
        second = await session.aask("and which?")
        third = await session.aask("and here?", ["another", "text"])
        assert sandboxes.alive == 1
        usage = session.usage
    assert [done.answer for done in session.completions] == ["read 4", "read 8", "read 12"]
    assert [done.iterations for done in (first, second, third)] == [2, 2, 2]
    assert [done.sandboxes for done in (first, second, third)] == [1, 0, 0]
    assert [done.usage.calls for done in (first, second, third)] == [2, 2, 2]
    assert sum(done.usage.total_tokens for done in session.completions) == usage.total_tokens
    assert usage.calls == 6 == sum(done.by_node["0"].calls for done in session.completions)
    assert sandboxes.alive == 0
    (made,) = sandboxes.created
    assert sorted(made.loaded) == ["context", "context_1", "history"]
    assert len({done.run_dir for done in session.completions}) == 1
    asked = [event for event in seen if isinstance(event, QuestionAsked)]
    assert [(event.query, event.context_bytes is None) for event in asked] == [
        ("and which?", True),
        ("and here?", False),
    ]
    assert sum(isinstance(event, RLMFinished) for event in seen) == 3
    assert sum(isinstance(event, RunFinished) for event in seen) == 1


async def test_a_further_question_shows_the_last_output_and_the_contexts(tmp_path: Path) -> None:
    root = Root(cell="FINAL: printed")
    async with orchestrator(root, tmp_path).session() as session:
        await session.aask("first?", "text")
        await session.aask("second?", "more text")
    prompt = root.seen[1][-1].content
    assert "FINAL: printed" in prompt  # a cell's output that the model had not seen
    assert "The next question:\nsecond?" in prompt
    assert "`context_1`, a str of 9 characters" in prompt
    assert "the first one is `context_0`" in prompt
    assert "This is turn 1 of 30." in prompt


async def test_the_names_of_contexts_are_bound_in_the_sandbox(tmp_path: Path) -> None:
    ran: list[str] = []

    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        ran.append(code)
        return await echo_cell(code, answer)

    async with orchestrator(Root(), tmp_path, sandbox_factory=FakeSandboxes(behaviour)).session() as session:
        await session.aask("first?", "text")
        await session.aask("second?", "more text")
    assert ran == ["context_0 = context", "look", "context = context_1", f"answer = {NO_ANSWER}", "look"]


async def test_an_interrupted_session_resumes_and_pays_nothing_again(tmp_path: Path) -> None:
    root = Root()
    async with orchestrator(root, tmp_path).session() as session:
        await session.aask("first?", "text")
        await session.aask("second?", b"bytes")
    copy = crash(directory(session), tmp_path / "copy")
    again, seen = Root(), list[Event]()
    rlm = orchestrator(again, tmp_path, on_event=seen.append)
    async with rlm.session(resume=copy) as resumed:
        assert [done.answer for done in resumed.completions] == ["read 4", "read 8"]
        assert [done.replayed_calls for done in resumed.completions] == [2, 2]
        assert again.paid == 0
        third = await resumed.aask("third?")
    assert (third.answer, again.paid, third.usage.calls) == ("read 12", 2, 2)
    assert resumed.usage.calls == 6
    assert isinstance(seen[0], RunResumed)
    replayed = await orchestrator(Root(), tmp_path).areplay(copy)
    assert (replayed.answer, replayed.replayed_calls) == ("read 12", 2)


async def test_a_finished_run_can_be_asked_a_further_question(tmp_path: Path) -> None:
    root = Root()
    done = await orchestrator(root, tmp_path).acompletion("text", "first?")
    async with orchestrator(root, tmp_path).session(resume=done.run_id) as session:
        further = await session.aask("second?")
    assert (done.answer, further.answer, root.paid) == ("read 4", "read 8", 4)
    assert further.run_id == done.run_id


async def test_an_error_closes_the_session_and_the_question_is_asked_again_when_it_is_resumed(tmp_path: Path) -> None:
    root, sandboxes = Root(fails_at=3), FakeSandboxes()
    async with orchestrator(root, tmp_path, sandbox_factory=sandboxes).session() as session:
        await session.aask("first?", "text")
        with pytest.raises(ModelError):
            await session.aask("second?")
        assert sandboxes.alive == 0
        with pytest.raises(ConfigError, match="resume="):
            await session.aask("third?")
    run = directory(session)
    assert json.loads((run / "run.json").read_text())["state"] == "failed"
    again = Root()
    done = await orchestrator(again, tmp_path).aresume(run)
    assert (done.answer, again.paid) == ("read 8", 2)


async def test_an_invalid_question_leaves_the_session_unchanged(tmp_path: Path) -> None:
    root = Root()
    async with orchestrator(root, tmp_path, limits=Limits(max_context_bytes=100)).session() as session:
        with pytest.raises(ConfigError, match="needs a context"):
            await session.aask("first?")
        with pytest.raises(ConfigError, match="empty"):
            await session.aask(" ", "text")
        await session.aask("first?", "text")
        with pytest.raises(ConfigError, match="max_context_bytes"):
            await session.aask("second?", "x" * 101)
        assert (await session.aask("second?", "y")).answer == "read 8"
    with pytest.raises(ConfigError, match="closed"):
        await session.aask("third?")
    assert root.paid == 4


async def test_a_context_that_vanishes_once_the_question_was_put_closes_the_session(tmp_path: Path) -> None:
    context = tmp_path / "context.txt"
    context.write_text("more")

    async def removes(code: str, answer: Answer | None) -> CellResult:
        if code == "context = context_1":
            context.unlink()
        return await echo_cell(code, answer)

    sandboxes = FakeSandboxes(removes)
    async with orchestrator(Root(), tmp_path, sandbox_factory=sandboxes).session() as session:
        await session.aask("first?", "text")
        with pytest.raises(JournalError, match="question 2"):
            await session.aask("second?", context)
        assert sandboxes.alive == 0
        with pytest.raises(ConfigError, match="resume="):
            await session.aask("third?")
    async with orchestrator(Root(), tmp_path).session(resume=directory(session)) as session:
        assert (await session.aask("second?")).answer == "read 8"


async def test_one_question_at_a_time(tmp_path: Path) -> None:
    async with orchestrator(Root(), tmp_path).session() as session, anyio.create_task_group() as group:
        group.start_soon(session.aask, "first?", "text")
        await anyio.sleep(0)
        with pytest.raises(ConfigError, match="is busy with a question"):
            await session.aask("second?")


async def test_cancelling_a_question_closes_the_session_and_its_sandbox(tmp_path: Path) -> None:
    async def hangs(code: str, answer: Answer | None) -> CellResult:
        if "context" not in code:
            scope.cancel()
            await anyio.sleep_forever()
        return await echo_cell(code, answer)

    sandboxes = FakeSandboxes(hangs)
    async with orchestrator(Root(), tmp_path, sandbox_factory=sandboxes).session() as session:
        with anyio.CancelScope() as scope:
            await session.aask("first?", "text")
        assert sandboxes.alive == 0
    record = json.loads((directory(session) / "run.json").read_text())
    assert (record["state"], record["stop_reason"]) == ("interrupted", "cancelled")


async def test_the_budget_is_that_of_all_questions_together(tmp_path: Path) -> None:
    limits = Limits(max_lm_calls=4)
    async with orchestrator(Root(), tmp_path, limits=limits).session() as session:
        assert (await session.aask("first?", "text")).stop_reason == "final"
        second = await session.aask("second?")
        assert (second.stop_reason, second.answer) == ("max_lm_calls", "stopped after 8")
    assert session.usage.calls == 4


async def test_with_on_limit_raise_a_limit_is_an_error_and_the_session_stays_open(tmp_path: Path) -> None:
    limits = Limits(max_iterations=1)
    async with orchestrator(Root(), tmp_path, limits=limits, on_limit="raise").session() as session:
        with pytest.raises(LimitExceeded):
            await session.aask("first?", "text")
        with pytest.raises(LimitExceeded):
            await session.aask("second?")
    assert [done.stop_reason for done in session.completions] == ["max_iterations"] * 2


async def test_a_question_that_the_clock_ended_is_replayed_to_the_same_place(tmp_path: Path) -> None:
    """The clock cut off a cell that had called a model: neither is repeated."""

    async def asks_and_hangs(code: str, answer: Answer | None) -> CellResult:
        if code == "look":
            assert answer is not None
            query = SandboxQuery(call=1, batch=0, prompt="p", context=None, model=None, recurse=False)
            await answer(query)
            await anyio.sleep_forever()
        return await echo_cell(code, answer)

    root = Root()
    rlm = orchestrator(root, tmp_path, sandbox_factory=FakeSandboxes(asks_and_hangs), limits=Limits(max_seconds=0.2))
    async with rlm.session() as session:
        first = await session.aask("first?", "text")
        assert (first.stop_reason, first.answer, first.usage.calls) == ("max_seconds", "stopped after 4", 3)
    again = Root(cell="quick")
    rlm = orchestrator(again, tmp_path, sandbox_factory=FakeSandboxes(asks_and_hangs))
    async with rlm.session(resume=directory(session)) as resumed:
        assert [done.answer for done in resumed.completions] == ["stopped after 4"]
        assert (again.paid, resumed.completions[0].diverged) == (0, ())
        assert (await resumed.aask("second?")).answer == "read 8"
    replayed = await orchestrator(Root(), tmp_path, sandbox_factory=FakeSandboxes(asks_and_hangs)).areplay(
        directory(session), limits=Limits(max_seconds=1.0)
    )
    assert replayed.answer == "read 8"


async def test_calls_cut_off_or_lost_count_in_a_resumed_session(tmp_path: Path) -> None:
    """Of a cell's two calls, one reply is lost on the way, and the clock cuts off the other."""

    async def asks_twice(code: str, answer: Answer | None) -> CellResult:
        if code != "look":
            return await echo_cell(code, answer)
        assert answer is not None
        for number, prompt in enumerate(("lost", "slow")):
            await answer(SandboxQuery(call=number, batch=0, prompt=prompt, context=None, model=None, recurse=False))
        raise AssertionError

    class Sub(ScriptedModel):
        async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
            if messages[-1].content == "lost":
                raise ModelError("it closed the connection")
            await anyio.sleep_forever()
            raise AssertionError

    def used(session: Session) -> tuple[object, ...]:
        assert session._run is not None
        budget = session._run._calls.accounting.budget
        return budget.remaining(), budget._calls, budget.unaccounted, budget.used

    limits = Limits(max_seconds=0.2, max_tokens=100_000, max_lm_calls=20)
    options = {"sub_model": Sub([], name="sub"), "sandbox_factory": FakeSandboxes(asks_twice)}
    async with orchestrator(Root(), tmp_path, limits=limits, **options).session() as session:
        first = await session.aask("first?", "text")
        assert (first.stop_reason, first.unaccounted_calls) == ("max_seconds", 2)
        before = used(session)
    replayed = await orchestrator(Root(), tmp_path, **options).areplay(directory(session))
    assert (replayed.answer, replayed.unaccounted_calls) == (first.answer, 2)
    limits = replace(limits, max_seconds=60.0)
    async with orchestrator(Root(), tmp_path, **options).session(resume=directory(session), limits=limits) as resumed:
        assert (resumed.completions[0].answer, resumed.completions[0].unaccounted_calls) == (first.answer, 2)
        assert used(resumed) == before


async def test_a_session_whose_time_was_up_before_its_sandbox_started_resumes_with_more_time(tmp_path: Path) -> None:
    sandboxes = FakeSandboxes(latency=60)
    rlm = orchestrator(Root(), tmp_path, sandbox_factory=sandboxes, limits=Limits(max_seconds=0.2))
    async with rlm.session() as session:
        for question in ("first?", "second?"):
            done = await session.aask(question, "text")
            assert (done.answer, done.stop_reason, done.usage.calls) == ("", "max_seconds", 0)
        assert sandboxes.alive == 0
        sandboxes.latency = 0.0
        session._run._control.raise_limit(max_seconds=100.0)  # type: ignore[union-attr]
        assert (await session.aask("third?")).answer.startswith("read")
        assert sandboxes.alive == 1
    again = Root()
    async with orchestrator(again, tmp_path).session(resume=directory(session)) as resumed:
        assert [done.stop_reason for done in resumed.completions] == ["max_seconds", "max_seconds", "final"]
        assert again.paid == 0


def test_sync_sandbox_does_the_same(tmp_path: Path) -> None:
    root, sandboxes = Root(), FakeSandboxes()
    rlm = orchestrator(root, tmp_path, sandbox_factory=sandboxes)
    with rlm.session() as session:
        assert session.ask("first?", "text").answer == "read 4"
        assert session.ask("second?").answer == "read 8"
    assert sandboxes.alive == 0
    with pytest.raises(ConfigError, match="not open"):
        session.ask("third?")
    with rlm, rlm.session(resume=directory(session)) as again:
        assert again.ask("third?").answer == "read 12"
