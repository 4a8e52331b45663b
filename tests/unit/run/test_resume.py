"""A run interrupted anywhere resumes to the same answer, and pays only for calls that its journal lacks."""

import json
import random
import re
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.journals import crash, states
from rlm import ConfigError, JournalError, Limits, ModelError, Orchestrator, Price, ReplayDivergedError, ScriptedModel
from rlm.events import Event, ReplayDiverged, RunResumed
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.sandbox.values import encode
from rlm.store.runs import list_runs
from rlm.testing import FakeSandboxes, echo_cell
from rlm.types import CellResult, Completion, Message, ModelReply, Usage

pytestmark = pytest.mark.anyio

ORDERS = random.Random(7)


async def asks(code: str, answer: Answer | None) -> CellResult:
    """`ask 3` asks three questions concurrently, each time in another order, and prints the answers."""
    if not code.startswith("ask "):
        return await echo_cell(code, answer)
    assert answer is not None
    count = int(code.split()[1])
    replies = [""] * count

    async def one(number: int) -> None:
        query = SandboxQuery(
            call=number, batch=1, prompt=f"{code} / {number}", context=encode("part"), model=None, recurse=None
        )
        if "plain" in code:
            query = SandboxQuery(
                call=number, batch=1, prompt=code + str(number), context=None, model=None, recurse=False
            )
        replies[number] = (await answer(query)).text

    async with anyio.create_task_group() as group:
        for number in ORDERS.sample(range(count), count):
            group.start_soon(one, number)
    return CellResult(outcome="ok", stdout=" ".join(replies))


class Paid:
    """Models that count paid calls, and copy the run's directory before each call is answered, or only before call
    number `at`.
    """

    def __init__(self, root: Sequence[str], child: Sequence[str], runs: Path, *, at: int | None = None) -> None:
        self.calls = 0
        self._at = at
        self.copies: list[Path] = []
        self._runs = runs
        self.models = {
            0: ScriptedModel(self._plays(root), name="root"),
            1: ScriptedModel(self._plays(child), name="child"),
            2: ScriptedModel(self._plays([]), name="sub"),
        }

    def _plays(self, cells: Sequence[str]):
        def reply(messages: Sequence[Message]) -> str:
            self.calls += 1
            if self._at in (None, self.calls):
                self.keep_a_copy()
            turn = sum(message.role == "assistant" for message in messages)
            if turn < len(cells):
                return f"```repl\n{cells[turn]}\n```"
            seen = sum(len(message.content) for message in messages)
            return f"FINAL(read {seen})" if cells or len(messages) > 1 else f"<{messages[-1].content}>"

        return reply

    def keep_a_copy(self) -> None:
        copy = self._runs.with_name("copies") / str(len(self.copies)) / "run"
        (run,) = self._runs.iterdir()
        crash(run, copy)
        self.copies.append(copy)


def crash_again(copy: Path) -> Path:
    """Another copy, to be resumed too."""
    return Path(shutil.copytree(copy, copy.with_name("again")))


def orchestrator(paid: Paid, runs: Path, **options) -> Orchestrator:
    return Orchestrator(
        depth=2,
        level_models=paid.models,
        model=paid.models[0],
        sandbox_factory=FakeSandboxes(asks),
        run_root=runs,
        **options,
    )


async def complete(
    root: Sequence[str], child: Sequence[str], folder: Path, *, at: int | None = None
) -> tuple[Paid, Completion]:
    runs = folder / "runs"
    runs.mkdir(parents=True)
    paid = Paid(root, child, runs, at=at)
    return paid, await orchestrator(paid, runs).acompletion("the context \ud800", "why?")


ROOT = ["ask 2", "look", "ask 1 plain", "ask 2"]
CHILD = ["ask 3 plain", "look"]

cells = st.sampled_from(["ask 1", "ask 2", "look", "ask 1 plain", "ask 3 plain"])
inner = st.sampled_from(["ask 2 plain", "look", "ask 1 plain"])


@settings(max_examples=12)
@given(st.lists(cells, max_size=4), st.lists(inner, max_size=3), st.integers(0, 1000))
async def test_any_prefix_of_a_journal_leads_to_the_same_answer_and_pays_only_for_missing_calls(
    tmp_path_factory: pytest.TempPathFactory, root: list[str], child: list[str], moment: int
) -> None:
    paid, _ = await complete(root, child, tmp_path_factory.mktemp("first"), at=0)
    total = paid.calls
    paid, whole = await complete(root, child, tmp_path_factory.mktemp("run"), at=1 + moment % total)
    (copy,) = paid.copies
    assert whole.usage.calls == total
    before = states(copy)
    again = Paid(root, child, copy.parent, at=0)
    done = await orchestrator(again, copy.parent).aresume(copy)
    assert done.answer == whole.answer
    assert again.calls == total - before.count("answered")
    assert done.resent_calls == before.count("sent")
    assert done.replayed_calls == before.count("answered")
    assert done.usage == whole.usage
    assert (done.by_node, done.by_model) == (whole.by_node, whole.by_model)
    assert (done.sub_calls, done.depth_reached) == (whole.sub_calls, whole.depth_reached)
    assert done.diverged == ()
    assert (done.run_dir, done.run_id) == (copy, whole.run_id)


async def test_a_finished_child_is_not_run_again(tmp_path: Path) -> None:
    paid, whole = await complete(["ask 2"], CHILD, tmp_path)
    again = Paid(["ask 2"], CHILD, paid.copies[-1].parent)
    shared = orchestrator(again, tmp_path)
    done = await shared.aresume(paid.copies[-1])
    assert done.answer == whole.answer
    assert (done.sandboxes, again.calls) == (1, 1)


async def test_a_run_that_crashes_repeatedly_is_resumed_each_time(tmp_path: Path) -> None:
    paid, whole = await complete(ROOT, CHILD, tmp_path)
    copy, calls = paid.copies[3], 0
    for step in (2, 3, 2):
        again = Paid(ROOT, CHILD, copy.parent)
        done = await orchestrator(again, tmp_path).aresume(copy)
        assert done.answer == whole.answer
        calls += step
        copy = again.copies[step]
    last = Paid(ROOT, CHILD, copy.parent)
    done = await orchestrator(last, tmp_path).aresume(copy)
    assert (done.answer, done.usage) == (whole.answer, whole.usage)


async def test_events_are_appended_after_a_truncated_line(tmp_path: Path) -> None:
    paid, _ = await complete(ROOT, CHILD, tmp_path)
    copy = paid.copies[4]
    before = states(copy)
    with (copy / "events.jsonl").open("a") as file:
        file.write('{"v": 1, "type": "Mod')
    await orchestrator(Paid(ROOT, CHILD, copy.parent), tmp_path).aresume(copy)
    lines = [json.loads(line) for line in (copy / "events.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    (resumed,) = (line for line in lines if line["type"] == RunResumed.__name__)
    assert (resumed["recorded"], resumed["in_flight"]) == (len(before), before.count("sent"))


async def test_a_request_that_differs_ends_the_replay_of_its_node_and_below_and_nowhere_else(tmp_path: Path) -> None:
    first = "ask 2"
    paid, _ = await complete([first], CHILD, tmp_path)
    copy = paid.copies[-1]
    database = sqlite3.connect(copy / "journal.sqlite")
    with database:
        database.execute("UPDATE queries SET ok = NULL, text = NULL")
        database.execute("UPDATE calls SET digest = zeroblob(32) WHERE node = '0.2' AND ordinal = 2")
    recorded = dict(database.execute("SELECT node, count(*) FROM calls WHERE state = 'answered' GROUP BY node"))
    database.close()
    seen: list[Event] = []
    again = Paid([first], CHILD, copy.parent)
    done = await orchestrator(again, tmp_path, on_event=seen.append).aresume(copy)
    assert recorded == {
        "0": 1,
        "0.1": 3,
        "0.1.1": 1,
        "0.1.2": 1,
        "0.1.3": 1,
        "0.2": 3,
        "0.2.1": 1,
        "0.2.2": 1,
        "0.2.3": 1,
    }
    assert done.diverged == ("0.2",)
    assert [(event.node, event.ordinal) for event in seen if isinstance(event, ReplayDiverged)] == [("0.2", 2)]
    assert again.calls == 2 + 1  # the two later turns of 0.2, and the root's that was in flight
    assert done.usage.calls == paid.calls + 2  # calls paid in vain count, too


async def test_a_failed_sub_call_fails_again_without_being_sent(tmp_path: Path) -> None:
    sent = 0

    def sub(messages: Sequence[Message]) -> str:
        nonlocal sent
        sent += 1
        raise ModelError("the server said no", status=500)

    def root(messages: Sequence[Message]) -> str:
        if len(messages) == 2:
            return "```repl\nask 2 plain\n```"
        if broken:
            raise ModelError("the server is away")
        return "FINAL(" + str(messages[-1].content.count("the server said no")) + ")"

    broken = True
    shared = Orchestrator(
        model=ScriptedModel(root, name="root"),
        sub_model=ScriptedModel(sub, name="sub"),
        sandbox_factory=FakeSandboxes(asks),
        run_root=tmp_path,
    )
    with pytest.raises(ModelError, match="away"):
        await shared.acompletion("text", "q")
    (run,) = tmp_path.iterdir()
    broken = False
    done = await shared.aresume(run.name)
    assert (done.answer, sent) == ("2", 2)


@pytest.mark.parametrize("turns", [0, 1])
async def test_an_error_says_how_to_resume_if_anything_was_paid(tmp_path: Path, turns: int) -> None:
    def root(messages: Sequence[Message]) -> str:
        if len(messages) == 2 + 2 * turns:
            raise ModelError("away")
        return "```repl\nlook\n```"

    alone = Orchestrator(model=ScriptedModel(root), sandbox_factory=FakeSandboxes(asks), run_root=tmp_path)
    with pytest.raises(ModelError, match="away") as failed:
        await alone.acompletion("text", "q")
    (run,) = tmp_path.iterdir()
    advice = f"To continue this run: Orchestrator.resume({str(run)!r})"
    assert getattr(failed.value, "__notes__", []) == [advice] * turns


async def test_limits_may_be_raised_for_the_rest_of_a_run(tmp_path: Path) -> None:
    paid, whole = await complete(ROOT, CHILD, tmp_path)
    copy = paid.copies[5]
    again = Paid(ROOT, CHILD, copy.parent)
    done = await orchestrator(again, tmp_path).aresume(copy, limits=Limits(max_lm_calls=123, max_seconds=5.0))
    assert (done.answer, done.diverged) == (whole.answer, ())
    with pytest.raises(ConfigError, match="max_iterations=30"):
        await orchestrator(again, tmp_path).aresume(paid.copies[6], limits=Limits(max_iterations=3))


async def test_usage_before_the_crash_counts(tmp_path: Path) -> None:
    paid, _ = await complete(ROOT, CHILD, tmp_path)
    copy = paid.copies[-1]
    again = Paid(ROOT, CHILD, copy.parent)
    done = await orchestrator(again, tmp_path).aresume(copy, limits=Limits(max_lm_calls=paid.calls))
    assert done.stop_reason == "max_lm_calls"


async def test_a_call_that_was_in_flight_at_the_crash_may_be_billed_and_counts_against_the_limits(
    tmp_path: Path,
) -> None:
    paid, whole = await complete(["look"], [], tmp_path)  # two calls, and one in reserve
    assert states(paid.copies[0]) == ["sent"]
    with_both = await orchestrator(paid, tmp_path).aresume(crash_again(paid.copies[0]), limits=Limits(max_lm_calls=4))
    assert (with_both.answer, with_both.stop_reason, with_both.resent_calls) == (whole.answer, "final", 1)
    done = await orchestrator(paid, tmp_path).aresume(paid.copies[0], limits=Limits(max_lm_calls=3))
    assert (done.stop_reason, done.usage.calls, done.resent_calls) == ("max_lm_calls", 2, 1)


async def test_a_call_that_was_in_flight_at_every_crash_counts_each_time(tmp_path: Path) -> None:
    paid, _ = await complete(["look"], [], tmp_path)
    again = Paid(["look"], [], paid.copies[0].parent)
    await orchestrator(again, tmp_path).aresume(paid.copies[0])
    assert states(again.copies[0]) == ["sent", "sent"]
    done = await orchestrator(paid, tmp_path).aresume(again.copies[0], limits=Limits(max_lm_calls=3))
    assert (done.stop_reason, done.usage.calls, done.resent_calls) == ("max_lm_calls", 1, 2)


async def test_a_replay_asks_no_model_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    paid, whole = await complete(ROOT, CHILD, tmp_path)
    files = ("run.json", "journal.sqlite", "events.jsonl", "answer.txt")
    before = [(whole.run_dir / name).read_bytes() for name in files]
    calls = paid.calls
    again = await orchestrator(paid, tmp_path / "runs").areplay(whole.run_id)
    assert (again.answer, again.usage, paid.calls) == (whole.answer, whole.usage, calls)
    assert [(whole.run_dir / name).read_bytes() for name in files] == before
    assert again.sandboxes == whole.sandboxes


async def test_a_replay_with_another_prompt_says_where_it_differs(tmp_path: Path) -> None:
    paid, whole = await complete(ROOT, CHILD, tmp_path)
    with pytest.raises(ReplayDivergedError, match="at node 0, call 1:") as differs:
        await orchestrator(paid, tmp_path / "runs").areplay(whole.run_id, system_prompt=lambda facts: "be brief")
    assert (differs.value.node, differs.value.ordinal) == ("0", 1)


async def test_a_run_resumes_only_if_its_context_file_is_unchanged(tmp_path: Path) -> None:
    source = tmp_path / "context.txt"
    source.write_text("a long text")
    runs = tmp_path / "runs"
    runs.mkdir()
    paid = Paid(["look"], [], runs)
    await orchestrator(paid, runs).acompletion(source, "why?")
    copy = paid.copies[1]
    assert not (copy / "context.file").exists()
    source.write_text("a LONG text")
    with pytest.raises(ConfigError, match="has changed since run "):
        await orchestrator(paid, runs).aresume(copy)
    source.unlink()
    with pytest.raises(ConfigError, match="is missing"):
        await orchestrator(paid, runs).aresume(copy)
    source.write_text("a long text")
    assert (await orchestrator(Paid(["look"], [], copy.parent), runs).aresume(copy)).answer


@pytest.mark.parametrize(
    "context",
    ["text \ud800\r\n\x00", b"\x00\xff", {"a": [1, None, "é"], 2: b"x"}, "x" * 3_000_000],
    ids=["text", "bytes", "data", "long"],
)
async def test_the_run_directory_holds_the_exact_context_readable_by_this_user_only(
    tmp_path: Path, context: Any
) -> None:
    shared = Orchestrator(model=ScriptedModel(["FINAL(x)"]), sandbox_factory=FakeSandboxes(), run_root=tmp_path)
    done = await shared.acompletion(context, "q")
    value = encode(context)
    file = done.run_dir / f"context.{value.kind}"
    assert file.read_bytes() == b"".join(value.pieces())
    assert file.stat().st_mode & 0o777 == 0o600
    assert (done.run_dir / "journal.sqlite").stat().st_mode & 0o777 == 0o600


async def test_runs_that_cannot_be_resumed_are_refused_in_one_sentence(tmp_path: Path) -> None:
    paid, whole = await complete(ROOT, CHILD, tmp_path)
    shared = orchestrator(paid, tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"has already finished\. Its answer is in"):
        await shared.aresume(whole.run_id)
    with pytest.raises(ConfigError, match="No run named 'nothing' in"):
        await shared.aresume("nothing")
    with pytest.raises(ConfigError, match=r"has already finished\. Its answer is in"):
        await shared.aresume(whole.run_id[:-1])
    shutil.copytree(whole.run_dir, whole.run_dir.with_name(f"{whole.run_id}-copy"))
    with pytest.raises(ConfigError, match=rf"matches 2 runs\. Use a longer prefix, for example {whole.run_id}, 2"):
        await shared.aresume(whole.run_id[:-1])
    with pytest.raises(ConfigError, match="has not finished"):
        await shared.areplay(paid.copies[2])
    with pytest.raises(ConfigError, match="has depth=2, which cannot change"):
        await shared.aresume(paid.copies[2], depth=1)
    with pytest.raises(ConfigError, match="model child at level 1, which cannot change to other"):
        await shared.aresume(paid.copies[2], level_models={1: "other"})
    with pytest.raises(ConfigError, match="given as an object: pass it again"):
        await Orchestrator(sandbox_factory=FakeSandboxes(asks)).aresume(paid.copies[2])
    change(paid.copies[2], v=99)
    with pytest.raises(JournalError, match="another version"):
        await shared.aresume(paid.copies[2])
    (paid.copies[3] / "run.json").write_text("{")
    with pytest.raises(JournalError, match="is damaged"):
        await shared.aresume(paid.copies[3])
    (paid.copies[4] / "context.text").write_text("something else")
    with pytest.raises(JournalError, match="is damaged"):
        await shared.aresume(paid.copies[4])
    database = sqlite3.connect(paid.copies[5] / "journal.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(JournalError, match="newer version"):
        await shared.aresume(paid.copies[5])
    (paid.copies[6] / "journal.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(JournalError, match="damaged"):
        await shared.aresume(paid.copies[6])
    (paid.copies[7] / "journal.sqlite").unlink()
    with pytest.raises(JournalError, match="damaged"):
        await shared.aresume(paid.copies[7])
    (paid.copies[9] / "journal.sqlite").write_bytes(b"")
    with pytest.raises(JournalError, match="is damaged: it is empty"):
        await shared.aresume(paid.copies[9])
    (paid.copies[8] / "context.text").unlink()
    with pytest.raises(JournalError, match="is damaged: Cannot read the context"):
        await shared.aresume(paid.copies[8])
    assert paid.calls == whole.usage.calls


def change(run: Path, **fields: object) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | fields))


async def test_a_run_that_is_running_is_not_resumed(tmp_path: Path) -> None:
    refused: list[str] = []

    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        (run,) = tmp_path.iterdir()
        with pytest.raises(ConfigError, match="is running, in process") as error:
            await shared.aresume(run.name)
        refused.append(str(error.value))
        return await echo_cell(code, answer)

    model = ScriptedModel(["```repl\nlook\n```", "FINAL(x)"])
    shared = Orchestrator(model=model, sandbox_factory=FakeSandboxes(behaviour), run_root=tmp_path)
    await shared.acompletion("text", "q")
    assert len(refused) == 1


async def test_run_json_holds_what_was_asked_and_how_it_ended(tmp_path: Path) -> None:
    _, whole = await complete(["look"], [], tmp_path)
    record = json.loads((whole.run_dir / "run.json").read_text())
    assert (record["state"], record["query"], record["depth"], record["stop_reason"]) == (
        "finished",
        "why?",
        2,
        "final",
    )
    assert record["models"]["0"] == {
        "name": "root",
        "server": None,
        "context_window": None,
        "parameters": {},
    }
    assert record["digests"].keys() == {"prompt", "image"}
    assert record["context"]["digest"]
    assert record["versions"].keys() == {"rlm", "python"}


async def test_calls_that_were_sent_again_are_counted_over_all_resumes_of_a_run(tmp_path: Path) -> None:
    paid, whole = await complete(ROOT, CHILD, tmp_path)
    copy, lost = paid.copies[6], states(paid.copies[6]).count("sent")
    again = Paid(ROOT, CHILD, copy.parent)
    await orchestrator(again, tmp_path).aresume(copy)
    later = again.copies[-1]
    done = await orchestrator(Paid(ROOT, CHILD, later.parent, at=0), tmp_path).aresume(later)
    assert done.answer == whole.answer
    assert done.resent_calls == lost + 1


async def test_rlms_from_before_the_crash_count(tmp_path: Path) -> None:
    paid, _ = await complete(["ask 2", "ask 2"], ["look"], tmp_path)
    copy = paid.copies[3 + 2]  # the first two children have ended
    again = Paid(["ask 2", "ask 2"], ["look"], copy.parent, at=0)
    done = await orchestrator(again, tmp_path).aresume(copy, limits=Limits(max_rlms=4))
    assert done.sub_calls == 4
    assert again.calls < paid.calls - 5


async def test_of_concurrent_resumes_of_a_run_exactly_one_succeeds(tmp_path: Path) -> None:
    paid, whole = await complete(ROOT, CHILD, tmp_path)
    copy, recorded = paid.copies[6], states(paid.copies[6]).count("answered")
    again = Paid(ROOT, CHILD, copy.parent, at=0)
    shared = orchestrator(again, tmp_path)
    ended: list[Completion | ConfigError] = []

    def resume() -> None:
        start.wait()
        try:
            ended.append(shared.resume(copy))
        except ConfigError as error:
            ended.append(error)

    start = threading.Barrier(8)
    threads = [threading.Thread(target=resume) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    (done,) = (one for one in ended if isinstance(one, Completion))
    assert done.answer == whole.answer
    assert again.calls == whole.usage.calls - recorded
    refused = [str(one) for one in ended if isinstance(one, ConfigError)]
    assert len(refused) == 7
    assert all(
        re.search("is running, in process|was modified by another process|has already finished", message)
        for message in refused
    )


async def test_a_run_that_changed_meanwhile_is_not_resumed_from_an_old_record(tmp_path: Path) -> None:
    paid, _ = await complete(ROOT, CHILD, tmp_path)
    session = orchestrator(Paid(ROOT, CHILD, tmp_path, at=0), tmp_path).session(resume=paid.copies[6])
    await orchestrator(Paid(ROOT, CHILD, tmp_path, at=0), tmp_path).aresume(paid.copies[6])
    with pytest.raises(ConfigError, match="was modified by another process"):
        async with session:
            pass


class Silent(ScriptedModel):
    """Never answers; signals when it is called."""

    def __init__(self, name: str) -> None:
        super().__init__([], name=name)
        self.asked = anyio.Event()
        self.calls = 0

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        self.calls += 1
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("depth", [1, 2], ids=["plain", "recursive"])
async def test_a_call_that_its_cell_did_not_wait_for_is_not_paid_again(tmp_path: Path, depth: int) -> None:
    silent = Silent("silent")

    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        if code != "leave":
            return await echo_cell(code, answer)
        assert answer is not None
        query = SandboxQuery(call=1, batch=0, prompt="slow", context=None, model=None, recurse=None)
        async with anyio.create_task_group() as calls:
            calls.start_soon(answer, query)
            with anyio.move_on_after(1.0 if silent.calls == 0 else 0.0):
                await silent.asked.wait()
            calls.cancel_scope.cancel()
        return CellResult(outcome="ok", stdout="left")

    broken = True

    def root(messages: Sequence[Message]) -> str:
        turn = sum(message.role == "assistant" for message in messages)
        if turn == 2 and broken:
            raise ModelError("away")
        return ["```repl\nleave\n```", "```repl\nlook\n```", "FINAL(x)"][turn]

    shared = Orchestrator(
        depth=depth,
        model=ScriptedModel(root, name="root"),
        sub_model=silent,
        sandbox_factory=FakeSandboxes(behaviour),
        run_root=tmp_path,
    )
    with pytest.raises(ModelError, match="away"):
        await shared.acompletion("text", "q")
    (run,) = tmp_path.iterdir()
    assert states(run).count("abandoned") == 1
    broken = False
    done = await shared.aresume(run)
    assert (done.answer, silent.calls, done.resent_calls, done.diverged) == ("x", 1, 0, ())
    assert (await shared.areplay(run)).answer == "x"
    assert silent.calls == 1


async def test_a_resume_that_fails_early_marks_the_run_as_failed(tmp_path: Path) -> None:
    paid, whole = await complete(["look"], [], tmp_path)

    def broken(facts: object) -> str:
        raise RuntimeError("no prompt")

    with pytest.raises(RuntimeError, match="no prompt"):
        await orchestrator(paid, tmp_path).aresume(paid.copies[1], system_prompt=broken)
    assert json.loads((paid.copies[1] / "run.json").read_text())["state"] == "failed"
    assert (await orchestrator(paid, tmp_path).aresume(paid.copies[1])).answer == whole.answer
    with pytest.raises(ConfigError, match="max_sandboxes=1 is too small"):
        await orchestrator(paid, tmp_path / "none").acompletion("text", "q", limits=Limits(max_sandboxes=1))
    assert not (tmp_path / "none").exists()


class Unpriced(ScriptedModel):
    """A model whose calls have no known cost."""

    def cost(self, usage: Usage) -> float | None:
        return None


async def test_the_prices_that_a_run_was_started_with_are_in_its_record(tmp_path: Path) -> None:
    broken = True

    def plays(messages: Sequence[Message]) -> str:
        if broken and len(messages) > 2:
            raise ModelError("away")
        return "```repl\nlook\n```" if len(messages) == 2 else "FINAL(x)"

    prices, limits = {"m": Price(input=1.0, output=2.0, cached=0.5)}, Limits(max_cost_usd=1.0)
    options: dict[str, Any] = {
        "model": Unpriced(plays, name="m"),
        "sandbox_factory": FakeSandboxes(asks),
        "run_root": tmp_path,
    }
    with pytest.raises(ModelError, match="away"):
        await Orchestrator(**options, prices=prices, limits=limits).acompletion("text", "q")
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "run.json").read_text())["prices"] == {"m": {"input": 1.0, "output": 2.0, "cached": 0.5}}
    broken = False
    done = await Orchestrator(**options).aresume(run)
    assert (done.answer, done.cost) == ("x", pytest.approx(prices["m"].cost(done.usage)))
    assert (await Orchestrator(**options).areplay(run)).cost == done.cost


async def test_a_cost_limit_without_a_price_is_refused_when_a_run_is_resumed(
    tmp_path: Path,
) -> None:
    paid, whole = await complete(["look"], [], tmp_path)
    record = json.loads((paid.copies[1] / "run.json").read_text())
    del record["prices"]  # as in a run of an earlier version
    (paid.copies[1] / "run.json").write_text(json.dumps(record))
    models = {level: Unpriced(model._reply, name=model.name) for level, model in paid.models.items()}
    shared = Orchestrator(
        depth=2, level_models=models, sandbox_factory=FakeSandboxes(asks), limits=Limits(max_cost_usd=1.0)
    )
    with pytest.raises(ConfigError, match="max_cost_usd needs the price of root, which is unknown"):
        await shared.aresume(paid.copies[1])
    with pytest.raises(ConfigError, match="max_cost_usd needs the price of root, which is unknown"):
        async with shared.session(resume=paid.copies[1]):
            pass
    assert (await shared.aresume(paid.copies[1], limits=Limits())).answer == whole.answer


async def test_a_journal_without_the_digests_of_queries_is_refused_in_one_sentence(tmp_path: Path) -> None:
    paid, _ = await complete(["look"], [], tmp_path)
    database = sqlite3.connect(paid.copies[1] / "journal.sqlite")
    database.execute("PRAGMA user_version = 1")
    database.close()
    with pytest.raises(JournalError, match="was written by an older version of rlm: use that version"):
        await orchestrator(paid, tmp_path).aresume(paid.copies[1])
    (listed,) = list_runs(paid.copies[1].parent)
    assert (listed.state, listed.calls) == ("interrupted", 1)
