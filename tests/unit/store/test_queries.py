"""A query matches the recorded one that asks the same, in any order."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pytest

from helpers.fakes import services
from helpers.journals import crash, states
from rlm import Limits, Orchestrator, ReplayDivergedError, ScriptedModel
from rlm.errors import SandboxDied
from rlm.events import Event, ReplayDiverged, SandboxLost
from rlm.loop.rlm import rlm_loop
from rlm.loop.task import RLMTask
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.sandbox.values import encode
from rlm.store.queries import Queries
from rlm.testing import FakeSandboxes, echo_cell
from rlm.types import CellResult, Completion, Message

pytestmark = pytest.mark.anyio

Order = Callable[[Sequence[str]], Sequence[str]]


def backwards(prompts: Sequence[str]) -> Sequence[str]:
    return prompts[::-1]


class Threads:
    """Cells whose prompts are all sent concurrently in some order; answers are printed in the order of the prompts."""

    def __init__(self, order: Order = list, *, changed: str = "") -> None:
        self.order = order
        self.changed = changed  # the prompt that changes

    async def __call__(self, code: str, answer: Answer | None) -> CellResult:
        if answer is None or not code.startswith("ask "):
            return await echo_cell(code, answer)
        prompts = [prompt + "?" * (prompt == self.changed) for prompt in code.removeprefix("ask ").split()]
        answers: dict[str, list[str]] = {}

        async def one(prompt: str) -> None:
            query = SandboxQuery(call=1, batch=0, prompt=prompt, context=None, model=None, recurse="r" in prompt)
            answers.setdefault(prompt, []).append((await answer(query)).text)

        try:
            async with anyio.create_task_group() as group:
                for prompt in self.order(prompts):
                    group.start_soon(one, prompt)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # as of a real sandbox
        return CellResult(outcome="ok", stdout=" ".join(sorted(answers[prompt])[0] for prompt in prompts))


class Tree:
    """A root that runs cells, and children that run one, on models that count their requests."""

    def __init__(self, cells: Sequence[str], folder: Path, *, kill_at: int | None = None) -> None:
        self.cells = cells
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.kill_at = kill_at
        self.copy = folder / "copies" / "run"

    def plays(self, messages: Sequence[Message]) -> str:
        self.asked[messages[-1].content] += 1
        if self.asked.total() == self.kill_at:
            (run,) = (self.folder / "runs").iterdir()
            crash(run, self.copy)
        if messages[0].role != "system":
            return f"<{messages[-1].content}>"
        turn = sum(message.role == "assistant" for message in messages)
        cells = self.cells if "the root" in messages[1].content else ["ask x y z"]
        return (
            f"```repl\n{cells[turn]}\n```" if turn < len(cells) else f"FINAL({messages[-1].content.replace('`', '')})"
        )

    def orchestrator(self, threads: Threads, **options) -> Orchestrator:
        return Orchestrator(
            depth=2,
            model=ScriptedModel(self.plays, name="m"),
            sandbox_factory=FakeSandboxes(threads),
            run_root=self.folder / "runs",
            **options,
        )

    async def run(self, **options) -> Completion:
        return await self.orchestrator(Threads(), **options).acompletion("text", "the root?")


CELLS = ["ask a b c a r1 r2", "look", "ask c a r1 d"]


@pytest.mark.parametrize("kill_at", range(1, 27, 2))
async def test_a_resumed_run_asks_in_another_order_and_pays_only_for_missing_calls(
    tmp_path: Path, kill_at: int
) -> None:
    tree = Tree(CELLS, tmp_path, kill_at=kill_at)
    whole = await tree.run()
    before = states(tree.copy)
    again = Tree(CELLS, tmp_path)
    done = await again.orchestrator(Threads(backwards)).aresume(tree.copy)
    assert (done.answer, done.usage, done.diverged) == (whole.answer, whole.usage, ())
    assert (done.resent_calls, done.replayed_calls) == (before.count("sent"), before.count("answered"))
    assert again.asked.total() == whole.usage.calls - before.count("answered")


async def test_a_replay_asks_in_another_order(tmp_path: Path) -> None:
    tree = Tree(CELLS, tmp_path)
    whole = await tree.run()
    paid = tree.asked.total()
    done = await tree.orchestrator(Threads(backwards)).areplay(whole.run_dir)
    assert (done.answer, done.usage, done.by_node, done.diverged) == (whole.answer, whole.usage, whole.by_node, ())
    assert tree.asked.total() == paid


async def test_a_new_sandbox_gets_the_variables_of_cells_that_ask_in_another_order(tmp_path: Path) -> None:
    class Dies(Threads):
        died = False

        async def __call__(self, code: str, answer: Answer | None) -> CellResult:
            result = await super().__call__(code, answer)
            if code == CELLS[-1] and not self.died:
                self.died, self.order = True, backwards
                raise SandboxDied("it was killed")
            return result

    calm, seen = await Tree(CELLS, tmp_path / "calm").run(), list[Event]()
    tree = Tree(CELLS, tmp_path / "dies")
    done = await tree.orchestrator(Dies(), on_event=seen.append).acompletion("text", "the root?")
    assert [event.restored for event in seen if isinstance(event, SandboxLost)] == [True]
    assert (done.answer, done.usage, done.diverged, done.resent_calls) == (calm.answer, calm.usage, (), 0)
    assert (await tree.orchestrator(Threads()).areplay(done.run_dir)).answer == done.answer


async def test_a_query_that_differs_is_named_and_affects_no_other_in_any_order(tmp_path: Path) -> None:
    """The cell had ended before the crash, so all its queries are recorded."""
    cells = ["ask a b c d r1", "look"]
    tree = Tree(cells, tmp_path, kill_at=1 + 4 + 5 + 1)  # the root's second request is in flight
    await tree.run()
    seen: list[Event] = []
    again = Tree(cells, tmp_path)
    done = await again.orchestrator(Threads(backwards, changed="b"), on_event=seen.append).aresume(tree.copy)
    assert (again.asked["b?"], again.asked["a"], again.asked["b"]) == (1, 0, 0)
    assert again.asked.total() == 1 + 2  # and the root's two turns after that
    assert done.diverged == ("0.6", "0")
    diverged = [(event.node, event.ordinal) for event in seen if isinstance(event, ReplayDiverged)]
    assert diverged == [("0.6", 1), ("0", 2)]
    assert done.usage.calls == tree.asked.total() + 1
    assert (await again.orchestrator(Threads(changed="b")).areplay(tree.copy)).answer == done.answer
    with pytest.raises(ReplayDivergedError, match=r"at node 0\.7, call 1:"):
        await again.orchestrator(Threads(changed="c")).areplay(tree.copy)


async def test_a_query_that_an_interrupted_cell_does_not_repeat_is_named_and_its_cost_counts(
    tmp_path: Path,
) -> None:
    cells = ["ask a b c d"]
    tree = Tree(cells, tmp_path, kill_at=4)
    whole = await tree.run(limits=Limits(max_concurrent_calls=1))
    recorded = states(tree.copy).count("answered")
    again = Tree(cells, tmp_path)
    done = await again.orchestrator(Threads(changed="a")).aresume(tree.copy)
    assert (again.asked["a?"], again.asked["a"]) == (1, 0)
    assert done.diverged == ("0.1",)
    assert done.usage.calls == whole.usage.calls + 1
    assert again.asked.total() == whole.usage.calls - recorded + 1
    # Calls paid in vain count in later processes, too.
    async with again.orchestrator(Threads(changed="a")).session(resume=tree.copy) as session:
        assert (session.completions[0].usage, session.completions[0].diverged) == (done.usage, ())


async def test_only_the_journal_keeps_answers(tmp_path: Path) -> None:
    """A sandbox lost after long answers gets them all again, including failures and rejected calls."""
    died = False

    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        nonlocal died
        if code == "die" and not died:
            died = True
            raise SandboxDied("it was killed")
        if code != "ask":
            return CellResult(outcome="ok", answer=code.removeprefix("FINAL: "))
        assert answer is not None
        expected = [("long", None, None), ("cut", None, None), ("x", "other", None), ("y", None, encode("no"))]
        for prompt, model, context in expected:
            query = SandboxQuery(call=1, batch=0, prompt=prompt, context=context, model=model, recurse=False)
            received.append((await answer(query)).text)
        return CellResult(outcome="ok")

    received: list[str] = []
    root = ScriptedModel(["```repl\nask\n```", "```repl\ndie\n```"], name="root")
    sub = ScriptedModel(lambda messages: messages[-1].content * 1000, name="sub")
    shared = services(root, sub, sandbox_factory=FakeSandboxes(behaviour))
    task = RLMTask(node="0", level=0, depth=1, context=encode("text"), query="q", model=root)
    await rlm_loop(task, shared)
    assert received[:4] == received[4:]
    assert received[0] == "long" * 1000
    assert "There is no model 'other'" in received[2]
    assert "a plain call takes a prompt only" in received[3]


def test_equal_queries_are_matched_in_order_and_no_node_number_is_used_twice() -> None:
    queries = Queries()
    for node, digest in [("0.3", b"x"), ("0.1", b"x"), ("0.2", b"y"), ("0.1.1", b"z")]:
        queries.record(node, digest)
    queries.record("0.9", b"x", stale=True)
    assert [queries.take("0", b"x") for _ in range(3)] == ["0.1", "0.3", None]
    assert queries.add("0", b"x") == "0.10"
    queries.mark_pending(["0.3", "0.10"])
    assert queries.pending("0") == ["0.2", "0.3", "0.10"]
    assert queries.discard("0", until=3) == ["0.2", "0.3"]
    assert queries.take("0", b"x") == "0.10"
    queries.begin("0")
    assert (queries.pending("0"), queries.pending("0.1")) == (["0.1", "0.10"], ["0.1.1"])
    assert queries.discard("0") == ["0.1", "0.1.1", "0.10"]
    assert queries.latest("0") == 10
