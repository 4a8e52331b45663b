"""The state of a run follows its events at a bounded size, in any order of calls ending."""

import dataclasses
from itertools import islice

from helpers.synthetic_run import Clock, answered, ask, batch, call, cell, replied, rlm, synthetic_run
from rlm.events import (
    CellFinished,
    CellOutput,
    CellStarted,
    Event,
    RLMFinished,
    RunFinished,
    SubCallFinished,
    TurnStarted,
)
from rlm.live.nodes import OUTPUT_CHARS, Group
from rlm.live.tree import KEPT_GROUPS, RunState
from rlm.types import CellResult, Usage


def tree_of(*events: Event) -> RunState:
    tree = RunState()
    for event in events:
        tree(event)
    return tree


def group_of(tree: RunState, cell: int = 1, batch: int = 1) -> Group:
    assert tree.root.loop is not None
    return tree.root.loop.groups[cell, batch]


def test_totals_are_those_of_all_replies_and_each_node_has_what_is_below_it() -> None:
    events = [event for event in synthetic_run(calls=200) if not isinstance(event, RunFinished)]
    paid = [event.usage for event in events if hasattr(event, "usage")]
    tree = tree_of(*events)
    group = group_of(tree, cell=3)
    assert tree.used.calls == len(paid)
    assert tree.used.tokens == sum(usage.total_tokens for usage in paid)
    assert abs(tree.used.dollars - sum(usage.cost_usd or 0.0 for usage in paid)) < 1e-9
    assert group.used.calls == tree.used.calls - 3  # all but the root's own turns
    assert {node.name: node.used.calls for node in group.ended} == {"0.1": 1, "0.2": group.used.calls - 1}


def test_a_resumed_runs_totals_include_earlier_usage() -> None:
    usage = Usage(calls=70, input_tokens=100, output_tokens=1, cost_usd=None)
    tree = tree_of(rlm("0", 0), RunFinished(stop_reason="final", usage=usage, seconds=1.0))
    assert (tree.used.calls, tree.used.tokens, tree.used.unknown) == (70, 101, True)


def test_fifty_thousand_calls_leave_a_bounded_tree() -> None:
    clock = Clock()
    tree = tree_of(clock.after(0, rlm("0", 0)))
    for number in range(50):
        tree(clock.after(0, CellStarted(cell=number + 1, code="...")))
        for event in batch(clock, "0", 1_000, batch=number + 1):
            tree(event)
        tree(clock.after(0, CellFinished(cell=number + 1, result=CellResult(outcome="ok"))))
    loop = tree.root.loop
    assert loop is not None
    assert loop.earlier is not None
    kept = [node for group in loop.groups.values() for node in (*group.open.values(), *group.ended, *group.failures)]
    assert len(kept) <= 200
    assert tree.open_nodes == 1
    assert len(loop.groups) <= KEPT_GROUPS
    assert loop.earlier.asked + sum(group.asked for group in loop.groups.values()) == 50_000


def test_a_group_counts_its_calls_as_they_begin_and_end() -> None:
    clock = Clock()
    busy = list(islice(batch(clock, "0", 1_000), 2_500))
    group = group_of(tree_of(rlm("0", 0), CellStarted(cell=1, code=""), *busy))
    failed = sum(isinstance(event, SubCallFinished) and not event.ok for event in busy)
    assert group.failed == failed > 0
    assert len(group.open) == 64
    assert group.asked == group.done + group.failed + 64


def test_calls_open_at_the_end_of_a_cell_end_with_it_and_late_events_change_only_the_totals() -> None:
    late = (replied("0.1", "m", 1_000), answered("0.1"))
    tree = tree_of(
        rlm("0", 0),
        CellStarted(cell=1, code="..."),
        call("0.1", "?", batch=1),
        CellFinished(cell=1, result=CellResult(outcome="timeout", error="too long")),
        *late,
    )
    group = group_of(tree)
    assert (group.asked, group.done, group.failed, len(group.open)) == (1, 0, 1, 0)
    assert tree.used.calls == 1


def test_a_call_repeated_after_its_sandbox_was_lost_is_not_sent_twice() -> None:
    tree = tree_of(rlm("0", 0), CellStarted(cell=1, code=""), call("0.1", "?", batch=1), call("0.1", "?", batch=1))
    tree(answered("0.1"))
    assert tree.open_nodes == 1
    assert (group_of(tree).done, len(group_of(tree).open)) == (1, 0)


def test_output_is_kept_to_its_end() -> None:
    clock = Clock()
    tree = tree_of(rlm("0", 0), CellStarted(cell=1, code=""))
    for number in range(20_000):
        tree(clock.after(0, CellOutput(cell=1, stream="stdout", text=f"line {number}\n")))
    assert tree.root.loop is not None
    assert tree.root.loop.cell is not None
    output = tree.root.loop.cell.output
    assert len(output) == OUTPUT_CHARS
    assert output.endswith("line 19999\n")


def test_the_view_follows_one_rlm_down_and_up_again() -> None:
    clock = Clock()
    ok = CellResult(outcome="ok")
    tree = tree_of(*ask(clock, "0", 1), CellStarted(cell=1, code="a"))
    looked_at = []
    for event in (
        *(call(f"0.{number}", "?", batch=1, recursive=True) for number in (1, 2)),
        *(rlm(f"0.{number}", 1) for number in (1, 2)),
        *cell(clock, "0.2", 1, "b", ok),
        *cell(clock, "0.1", 1, "c", ok),  # a cell of another RLM does not change the shown one
        RLMFinished(node="0.2", answer="", stop_reason="final", iterations=1),
        answered("0.2"),
    ):
        tree(event)
        looked_at.append(tree.focus and tree.focus.name)
    assert looked_at == ["0"] * 4 + ["0.2"] * 5 + ["0"]


def test_a_failed_run_leaves_nothing_open() -> None:
    events = islice(synthetic_run(), 500)
    tree = tree_of(*events, RunFinished(stop_reason=None, usage=Usage(), seconds=1.0, error="ModelError: no"))
    assert tree.open_nodes == 0
    assert (tree.root.state, tree.error) == ("failed", "ModelError: no")


def test_any_subset_of_a_runs_events_is_accepted() -> None:
    for event in synthetic_run(calls=5):
        tree_of(event, TurnStarted(turn=1, of=2), dataclasses.replace(event, ts=2.0))
