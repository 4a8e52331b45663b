"""Any prefix of a run's events is a trajectory, which adds up what its nodes hold."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.errors import ConfigError
from rlm.events import (
    AnswerReplayed,
    CellFinished,
    CellStarted,
    Compacted,
    Event,
    LimitsRaised,
    ModelFailed,
    ModelReplied,
    QuestionAsked,
    ReplayDiverged,
    RLMFinished,
    RLMStarted,
    RunFinished,
    RunResumed,
    RunStarted,
    SandboxLost,
    SubCallFinished,
    SubCallStarted,
    ToolUsed,
    TurnStarted,
)
from rlm.store.event_log import to_json
from rlm.trajectory.event_reader import read_events
from rlm.trajectory.trajectory import TrajectoryCell, build_trajectory
from rlm.types import CellResult, Usage

ONE = Usage(calls=1, input_tokens=10, output_tokens=1, cost_usd=0.5)


def started(node: str) -> RLMStarted:
    return RLMStarted(
        node=node, level=0, depth=1, model="m", sandbox="s" * 64, context_type="str", context_size=5, ts=1.0
    )


def replied(node: str, text: str = "r", *, role: str = "root", usage: Usage = ONE) -> ModelReplied:
    return ModelReplied(node=node, role=role, model="m", text=text, finish_reason="stop", usage=usage, seconds=0.1)  # type: ignore[arg-type]


def rlm_events(node: str, calls: list[str]) -> Iterator[Event]:
    yield started(node)
    yield TurnStarted(node=node, turn=1, of=5)
    yield replied(node)
    yield CellStarted(node=node, cell=1, code="x")
    for number, kind in enumerate(calls, 1):
        child = f"{node}.{number}"
        yield SubCallStarted(node=child, prompt="p", model="m", recursive=kind == "rlm", batch=1)
        if kind == "rlm":
            yield from rlm_events(child, ["call"])
        elif kind == "call":
            yield replied(child, role="sub")
        else:
            yield ModelFailed(node=child, role="sub", model="m", error="503", usage=ONE, seconds=0.1)
        yield SubCallFinished(node=child, ok=kind != "fails", text="t", seconds=0.2)
    yield SandboxLost(node=node, sandbox="a", reason="gone", replacement="b")
    yield CellFinished(node=node, cell=1, result=CellResult(outcome="ok", stdout="o", answer="42"))
    yield Compacted(node=node, messages=3, summary="short")
    yield TurnStarted(node=node, turn=1, of=5)
    yield replied(node)
    yield RLMFinished(node=node, answer="42", stop_reason="final", iterations=1)


def run_events(calls: list[str]) -> list[Event]:
    begin = RunStarted(query="q", depth=2, models={0: "m"}, context_bytes=5)
    end = RunFinished(stop_reason="final", usage=ONE, seconds=1.0)
    return [begin, *rlm_events("0", calls), end]


kinds = st.lists(st.sampled_from(["rlm", "call", "fails"]), max_size=6)


@given(kinds, st.data())
def test_any_prefix_of_a_runs_events_is_a_trajectory(calls: list[str], data: st.DataObject) -> None:
    text = "".join(to_json(event) + "\n" for event in run_events(calls))
    length = data.draw(st.integers(text.index("\n") + 1, len(text)))
    trajectory = build_trajectory(read_events(text[:length].splitlines()))
    assert trajectory.root.parent is None
    for name, node in trajectory.nodes.items():
        assert node.id == name
        assert all(trajectory.nodes[child].parent == name for child in node.children)
        called = [call for cell in node.cells for call in cell.calls]
        assert called == node.children
    assert trajectory.root.total_usage == sum((node.own_usage for node in trajectory.nodes.values()), Usage())


@given(kinds)
def test_events_survive_writing_and_reading(calls: list[str]) -> None:
    events = run_events(calls)
    assert [to_json(event) for event in read_events(map(to_json, events))] == [to_json(event) for event in events]


def test_a_trajectory_has_turns_cells_calls_and_total_usage() -> None:
    trajectory = build_trajectory(run_events(["rlm", "call", "fails"]))
    root = trajectory.root
    assert list(trajectory.nodes) == ["0", "0.1", "0.1.1", "0.2", "0.3"]
    assert [(turn.number, turn.is_final) for turn in root.turns] == [(1, False), (1, True)]
    assert [type(entry) for entry in root.turns[0].entries] == [ModelReplied, TrajectoryCell, SandboxLost, Compacted]
    assert root.cells[0].calls == ["0.1", "0.2", "0.3"]
    assert (root.own_usage.calls, root.total_usage.calls, root.total_usage.cost_usd) == (2, 7, 3.5)
    assert (root.sandbox, root.answer, root.stop_reason, root.ok) == ("b", "42", "final", True)
    assert (trajectory.nodes["0.3"].ok, trajectory.nodes["0.3"].answer) == (False, "t")


def test_an_unknown_cost_makes_the_cost_of_all_ancestors_unknown() -> None:
    events = [started("0"), replied("0.1.1", usage=Usage(calls=1, cost_usd=None)), replied("0.2")]
    trajectory = build_trajectory(events)
    assert [trajectory.nodes[name].total_usage.cost_usd for name in ("0", "0.1", "0.2")] == [None, None, 0.5]


def test_a_node_without_a_start_event_is_placed_by_its_id() -> None:
    trajectory = build_trajectory([replied("0.7.2"), replied("__proto__"), replied("x." * 3000)])
    assert trajectory.nodes["0.7.2"].parent == "0.7"
    assert trajectory.nodes["__proto__"].parent == "0"


def test_work_repeated_after_an_interruption_counts_once() -> None:
    first = run_events(["rlm", "call"])
    trajectory = build_trajectory([*first[:9], *first[1:]])
    assert trajectory.root.total_usage.calls == build_trajectory(first).root.total_usage.calls
    assert trajectory.root.cells[0].calls == ["0.1", "0.2"]
    assert len(trajectory.nodes) == len(build_trajectory(first).nodes)


def test_a_resumed_run_is_unfinished_until_it_ends_again() -> None:
    first = run_events(["rlm"])
    cancelled = RunFinished(stop_reason="cancelled", usage=ONE, seconds=1.0, error="cancelled")
    again = RunResumed(recorded=3, in_flight=1, ts=5.0)
    trajectory = build_trajectory([*first[:6], cancelled, again])
    assert (trajectory.ended, trajectory.error, trajectory.resumptions, trajectory.root.ok) == (
        None,
        None,
        [again],
        None,
    )
    trajectory = build_trajectory([*first[:6], cancelled, again, *first[1:]])
    assert (trajectory.error, trajectory.stop_reason, trajectory.root.ok) == (None, "final", True)


def test_an_answer_from_the_journal_is_marked_until_its_rlm_runs_again() -> None:
    asked = SubCallStarted(node="0.1", prompt="p", model="m", recursive=True, batch=0)
    events = [started("0"), asked, AnswerReplayed(node="0.1", below=["0.1.1"])]
    assert build_trajectory(events).nodes["0.1"].from_journal
    assert not build_trajectory([*events, started("0.1")]).nodes["0.1"].from_journal


def test_a_host_function_is_listed_with_its_cell_even_if_it_outlasts_it() -> None:
    use = ToolUsed(tool="f", arguments="(1)", ok=True, seconds=0.5)
    events = run_events([])
    ended = next(number for number, event in enumerate(events) if isinstance(event, CellFinished))
    for at in (ended, ended + 1):
        (cell,) = build_trajectory([*events[:at], use, *events[at:]]).root.cells
        assert cell.tools == [use]


def test_the_divergence_of_a_replay_is_an_entry_of_its_turn() -> None:
    other = ReplayDiverged(ordinal=2)
    assert build_trajectory([started("0"), TurnStarted(turn=1, of=2), other]).root.turns[0].entries == [other]


def test_a_further_question_reopens_the_root_and_restarts_the_turn_count() -> None:
    further, raised = QuestionAsked(query="and?", context_bytes=None), LimitsRaised(limits={"max_tokens": 9.0})
    events = [*run_events([])[:-1], raised, further]
    trajectory = build_trajectory(events)
    assert (trajectory.root.ok, trajectory.root.answer) == (None, None)
    assert trajectory.root.turns[-1].entries[-2:] == [raised, further]
    answer = RLMFinished(answer="43", stop_reason="final", iterations=1)
    trajectory = build_trajectory([*events, TurnStarted(turn=1, of=5), answer])
    assert (trajectory.root.ok, trajectory.root.answer, trajectory.root.turns[-1].is_final) == (True, "43", False)


def test_a_truncated_last_line_is_ignored() -> None:
    lines = [to_json(event) for event in run_events([])]
    assert len(list(read_events([*lines[:3], lines[3][:40]]))) == 3


@pytest.mark.parametrize(
    "lines",
    [
        ["no json", "{}"],
        ["[]"],
        ['{"v": 2, "type": "TurnStarted"}'],
        ['{"v": 1, "type": "TurnStarted", "turn": "one", "of": 3}'],
        ['{"v": 1, "type": "TurnStarted", "of": 3}'],
        ['{"v": 1, "type": "CellFinished", "cell": 1, "result": 3}'],
        ['{"v": 1, "type": "CellFinished", "cell": 1, "result": {}}'],
        [],
    ],
)
def test_an_invalid_event_log_is_an_error_of_one_sentence(lines: list[str]) -> None:
    with pytest.raises(ConfigError):
        build_trajectory(read_events(lines))


def test_events_and_fields_of_newer_versions_are_ignored() -> None:
    event = json.loads(to_json(TurnStarted(turn=1, of=3)))
    lines = [json.dumps(event | {"colour": "red"}), json.dumps(event | {"type": "Danced"})]
    assert list(read_events(lines)) == [TurnStarted(turn=1, of=3)]
