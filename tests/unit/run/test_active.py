"""Trees of RLMs of any shape, in virtual time: they end within their limits, and leave nothing open.

The loop, the broker, the ledger and the slots are the real ones; models and sandboxes are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fakes import services
from rlm.calls.budget import BudgetExceeded, Estimate
from rlm.config import Limits
from rlm.loop.rlm import rlm_loop
from rlm.loop.task import RLMTask
from rlm.models.scripted import ScriptedModel
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.sandbox.slots import LevelSlots
from rlm.sandbox.values import encode
from rlm.testing import Deadlock, FakeSandboxes, run_virtually
from rlm.types import CellResult, Message, ModelReply


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The cell of one RLM: it calls all its children concurrently, and ends after `patience` seconds at most."""

    children: list[Node]
    patience: float | None


def trees(depth: int) -> st.SearchStrategy[Node]:
    """Trees with at most this many levels below the root."""
    children = st.just([]) if depth == 0 else st.lists(trees(depth - 1), max_size=4)
    return st.builds(Node, children=children, patience=st.none() | st.floats(0, 20))


def patient(node: Node) -> Node:
    return Node(children=[patient(child) for child in node.children], patience=None)


def paths(node: Node, path: str = "r") -> Iterator[str]:
    yield path
    for number, child in enumerate(node.children):
        yield from paths(child, f"{path}{number}")


class CountingModel(ScriptedModel):
    """Plays every level: an RLM runs the cell named by its question. Counts the concurrent requests."""

    def __init__(self, latency: float) -> None:
        super().__init__(self._play, latency=latency)
        self.in_work = self.most = 0

    def _play(self, messages: Sequence[Message]) -> str:
        if messages[0].role == "user":
            return "plain"
        if "You have to stop" in messages[-1].content:
            return "FINAL(stopped)"
        return f"```repl\n{messages[1].content.splitlines()[1]}\n```"

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        self.in_work += 1
        self.most = max(self.most, self.in_work)
        try:
            return await super().complete(messages, max_tokens=max_tokens)
        finally:
            self.in_work -= 1


@dataclass
class World:
    """One tree and the limits that it runs under. `cancelled_after`: seconds until the run is cancelled."""

    tree: Node
    depth: int
    limits: Limits
    latency: float
    cancelled_after: float | None = None
    ran: list[str] = field(default_factory=list)

    async def cell(self, code: str, answer: Answer | None) -> CellResult:
        node = self.tree
        for digit in code[1:]:
            node = node.children[int(digit)]
        self.ran.append(code)
        assert answer is not None
        with anyio.move_on_after(node.patience):
            async with anyio.create_task_group() as group:
                for number in range(len(node.children)):
                    query = SandboxQuery(
                        call=number, batch=1, prompt=f"{code}{number}", context=None, model=None, recurse=None
                    )
                    group.start_soon(answer, query)
        return CellResult(outcome="ok", answer="done")

    async def run(self) -> None:
        model = CountingModel(self.latency)
        sandboxes = FakeSandboxes(self.cell, latency=self.latency)
        slots = LevelSlots(slots=self.limits.max_sandboxes, levels=max(1, self.depth))
        shared = services(model, limits=self.limits, sandbox_factory=sandboxes, slots=slots)
        task = RLMTask(node="0", level=0, depth=self.depth, context=encode(""), query="r", model=model)
        with anyio.move_on_after(self.cancelled_after):
            try:
                await rlm_loop(task, shared)
            except BudgetExceeded:
                raise AssertionError("the root is never refused") from None
        assert (sandboxes.alive, model.in_work, slots.in_use) == (0, 0, 0)
        assert shared.calls.accounting.budget.in_flight == Estimate()
        assert self.limits.max_sandboxes is not None
        assert sandboxes.peak_alive <= self.limits.max_sandboxes
        assert self.limits.max_concurrent_calls is not None
        assert model.most <= self.limits.max_concurrent_calls
        if self.limits.max_tokens is not None:
            assert shared.calls.accounting.budget.used.total_tokens <= self.limits.max_tokens


@st.composite
def worlds(draw: st.DrawFn) -> World:
    depth = draw(st.integers(1, 4))
    limits = Limits(
        max_sandboxes=depth + draw(st.integers(0, 2)),
        max_concurrent_calls=draw(st.integers(1, 3)),
        max_tokens=draw(st.none() | st.integers(1, 30_000)),
        max_lm_calls=draw(st.none() | st.integers(1, 30)),
        max_rlms=draw(st.none() | st.integers(1, 10)),
    )
    cancelled_after = draw(st.none() | st.floats(0, 30))
    return World(draw(trees(depth)), depth, limits, draw(st.floats(0, 3)), cancelled_after)


@given(worlds())
def test_every_tree_ends_within_its_limits_and_holds_nothing_even_when_cancelled_anywhere(world: World) -> None:
    run_virtually(world.run)


@settings(max_examples=50)
@given(st.integers(1, 4).flatmap(lambda depth: st.tuples(st.just(depth), trees(depth))), st.integers(0, 2))
def test_every_rlm_of_a_tree_runs_with_as_few_sandboxes_as_there_are_levels(
    shape: tuple[int, Node], spare: int
) -> None:
    depth, tree = shape
    tree = patient(tree)
    world = World(tree, depth, Limits(max_sandboxes=depth + spare, max_concurrent_calls=1), 1.0)
    run_virtually(world.run)
    assert sorted(world.ran) == sorted(path for path in paths(tree) if len(path) <= depth)


def test_depth_4_with_fan_out_5_ends_with_6_sandboxes() -> None:
    def full(levels: int) -> Node:
        return Node(children=[full(levels - 1) for _ in range(5)] if levels else [], patience=None)

    world = World(full(4), 4, Limits(max_sandboxes=6, max_seconds=None), 0.1)
    run_virtually(world.run)
    assert len(world.ran) == 1 + 5 + 25 + 125


def test_virtual_time_knows_a_deadlock() -> None:
    with pytest.raises(Deadlock):
        run_virtually(anyio.Event().wait)
