"""A run as a tree, built from its events: nodes, their turns, and the replies and cells of each turn. Pure.

A node is an RLM or a plain call. Any prefix of a run's events gives a trajectory. Open parts have no end time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

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
from rlm.types import CellResult, StopReason, Usage

ROOT: Final = "0"


@dataclass(slots=True, kw_only=True)
class TrajectoryCell:
    """A cell of model code.

    Attributes:
        number: Counts from 1 within the RLM.
        code: The Python source.
        started: Start time, in seconds since the epoch.
        ended: End time, or None while the cell is open.
        result: Outcome and output, or None while the cell is open.
        calls: IDs of the nodes that the cell called.
        tools: Calls of host functions.
    """

    number: int
    code: str
    started: float
    ended: float | None = None
    result: CellResult | None = None
    calls: list[str] = field(default_factory=list)
    tools: list[ToolUsed] = field(default_factory=list)


TurnEntry = (
    ModelReplied
    | ModelFailed
    | SandboxLost
    | Compacted
    | ReplayDiverged
    | QuestionAsked
    | LimitsRaised
    | TrajectoryCell
)


@dataclass(slots=True, kw_only=True)
class TrajectoryTurn:
    """One request to the root model of an RLM, and everything that followed it.

    Attributes:
        number: Counts from 1. Turn 0 holds what happened outside any turn, such as the reply of a plain call.
        limit: The limit on turns, or None without one.
        is_final: Whether this is the last turn after a limit or a stop.
        started: Start time, in seconds since the epoch.
        entries: Replies, failures, cells and other events, in order.
    """

    number: int
    limit: int | None = 0
    is_final: bool = False
    started: float
    entries: list[TurnEntry] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class TrajectoryNode:
    """An RLM or a plain call. Times are in seconds since the epoch.

    Attributes:
        id: Place in the call tree, such as `0.3.1`.
        parent: ID of the caller, or None for the root.
        recursive: True for an RLM, false for a plain call.
        started: When the caller made the call.
        prompt: The query, or the prompt of a plain call.
        model: Name of the model.
        batch: Number of the `llm_batch` that the call belongs to, or 0 for a single call.
        ready: When the sandbox had the context.
        ended: When the answer arrived, or None while the node is open.
        depth: Levels that the RLM may still call.
        sandbox: ID of the current sandbox.
        context_type: Python type of the context.
        context_ends: First and last characters of the context.
        context_size: Length of the context in that type's units.
        ok: Whether the node answered, or None while it is open.
        answer: The answer, or the reason for the failure if `ok` is false.
        from_journal: Whether the journal answered, so that the RLM did not run again.
        stop_reason: Why the RLM stopped.
        own_usage: Usage of the node's own model calls.
        total_usage: Usage of the node and all nodes below it.
        turns: Turns, in order.
        children: IDs of the nodes that it called.
    """

    id: str
    parent: str | None
    recursive: bool
    started: float
    prompt: str | None = None
    model: str = ""
    batch: int = 0
    ready: float | None = None
    ended: float | None = None
    depth: int = 0
    sandbox: str = ""
    context_type: str = ""
    context_ends: tuple[str, str] = ("", "")
    context_size: int | None = None
    ok: bool | None = None
    answer: str | None = None
    from_journal: bool = False
    stop_reason: StopReason | None = None
    own_usage: Usage = field(default_factory=Usage)
    total_usage: Usage = field(default_factory=Usage)
    turns: list[TrajectoryTurn] = field(default_factory=list)
    children: list[str] = field(default_factory=list)

    @property
    def cells(self) -> list[TrajectoryCell]:
        """All cells of all turns, in order."""
        return [entry for turn in self.turns for entry in turn.entries if isinstance(entry, TrajectoryCell)]

    @property
    def open_cell(self) -> TrajectoryCell | None:
        """The cell that is running at the last event."""
        cell = self.latest_cell
        return cell if cell is not None and cell.ended is None else None

    @property
    def latest_cell(self) -> TrajectoryCell | None:
        """The last cell of the last turn."""
        entries = self.turns[-1].entries if self.turns else []
        return next((entry for entry in reversed(entries) if isinstance(entry, TrajectoryCell)), None)


@dataclass(slots=True, kw_only=True)
class Trajectory:
    """One run. Times are in seconds since the epoch.

    Attributes:
        run_id: ID of the run.
        query: The question, or None if the context contains it.
        depth: Levels below the root.
        models: Model names by level.
        context_bytes: Size of the context.
        started: Time of the first event.
        latest: Time of the last event.
        ended: When the run ended, or None for an unfinished run.
        stop_reason: Why the run stopped.
        error: Why the run failed.
        resumptions: One event for each time the run was resumed.
        nodes: Nodes by ID, in the order of their calls, the root first.
    """

    run_id: str
    query: str | None = None
    depth: int = 0
    models: dict[str, str] = field(default_factory=dict)
    context_bytes: int = 0
    started: float
    latest: float
    ended: float | None = None
    stop_reason: StopReason | None = None
    error: str | None = None
    resumptions: list[RunResumed] = field(default_factory=list)
    nodes: dict[str, TrajectoryNode] = field(default_factory=dict)

    @property
    def root(self) -> TrajectoryNode:
        """The node of the root RLM."""
        return self.nodes[ROOT]


def build_trajectory(events: Iterable[Event]) -> Trajectory:
    """Build the trajectory of a run from its events.

    Args:
        events: All events of a run in order, or any prefix of them.

    Raises:
        ConfigError: `events` is empty.
    """
    trajectory: Trajectory | None = None
    for event in events:
        if trajectory is None:
            trajectory = Trajectory(run_id=event.run_id, started=event.ts, latest=event.ts)
        _add(trajectory, event)
    if trajectory is None:
        raise ConfigError("The run has no events yet: wait until it has started.")
    _add_up_usage(trajectory)
    return trajectory


def _add(trajectory: Trajectory, event: Event) -> None:
    node = _node(trajectory, event.node, event.ts)
    trajectory.latest = max(trajectory.latest, event.ts)
    match event:
        case RunStarted():
            trajectory.query, trajectory.depth = event.query, event.depth
            trajectory.context_bytes = event.context_bytes
            trajectory.models = {str(level): name for level, name in event.models.items()}
            node.prompt = event.query
        case RunResumed():
            trajectory.resumptions.append(event)
            trajectory.ended = trajectory.stop_reason = trajectory.error = None
            node.ended = node.ok = None
        case RLMStarted():
            _restart(node)  # a resumed run repeats the events of recorded work
            node.recursive, node.ready, node.depth, node.model = True, event.ts, event.depth, event.model
            node.sandbox, node.context_type, node.context_size = event.sandbox, event.context_type, event.context_size
            node.context_ends = event.context_head, event.context_tail
        case TurnStarted():
            turn = TrajectoryTurn(number=event.turn, limit=event.of, is_final=_is_final(node, event), started=event.ts)
            node.turns.append(turn)
        case ModelReplied() | ModelFailed():
            node.own_usage += event.usage or Usage()
            _turn(node, event).entries.append(event)
        case SandboxLost():
            node.sandbox = event.replacement
            _turn(node, event).entries.append(event)
        case Compacted() | ReplayDiverged() | LimitsRaised():
            _turn(node, event).entries.append(event)
        case QuestionAsked():  # reopens the node for the next answer
            node.ok = node.answer = node.ended = node.stop_reason = None
            _turn(node, event).entries.append(event)
        case CellStarted():
            _turn(node, event).entries.append(TrajectoryCell(number=event.cell, code=event.code, started=event.ts))
        case CellFinished():
            if (cell := node.open_cell) is not None:
                cell.ended, cell.result = event.ts, event.result
        case ToolUsed():
            if (cell := node.latest_cell) is not None:  # a host function may outlast its cell
                cell.tools.append(event)
        case SubCallStarted():
            if not event.recursive:
                _restart(node)
            node.prompt, node.model, node.recursive = event.prompt, event.model, event.recursive
            node.started, node.batch = event.ts, event.batch
            if (cell := trajectory.nodes[node.parent or ROOT].open_cell) is not None:
                cell.calls.append(node.id)
        case AnswerReplayed():
            node.from_journal = True
        case SubCallFinished():
            node.ok, node.answer, node.ended = event.ok, event.text, event.ts
        case RLMFinished():
            node.ok, node.answer, node.ended, node.stop_reason = True, event.answer, event.ts, event.stop_reason
        case RunFinished():
            trajectory.ended, trajectory.stop_reason, trajectory.error = event.ts, event.stop_reason, event.error
            node.ended, node.ok = event.ts, event.error is None


def _node(trajectory: Trajectory, name: str, ts: float) -> TrajectoryNode:
    """The node with this ID. Creates it, and any missing ancestors, on first use."""
    missing = []
    while name not in trajectory.nodes:
        missing.append(name)
        if name == ROOT:
            break
        name = name.rpartition(".")[0] or ROOT
    for new in reversed(missing):
        parent = None if new == ROOT else new.rpartition(".")[0] or ROOT
        trajectory.nodes[new] = TrajectoryNode(id=new, parent=parent, recursive=new == ROOT, started=ts)
        if parent is not None:
            trajectory.nodes[parent].children.append(new)
    return trajectory.nodes[missing[0] if missing else name]


def _restart(node: TrajectoryNode) -> None:
    node.turns, node.own_usage = [], Usage()
    node.ok = node.answer = node.ended = node.stop_reason = None
    node.from_journal = False


def _turn(node: TrajectoryNode, event: Event) -> TrajectoryTurn:
    if not node.turns:
        node.turns.append(TrajectoryTurn(number=0, started=event.ts))
    return node.turns[-1]


def _is_final(node: TrajectoryNode, event: TurnStarted) -> bool:
    """The final turn repeats the previous turn's number. A further question restarts the count at 1."""
    if event.turn == 0 or not node.turns:
        return event.turn == 0
    previous = node.turns[-1]
    return previous.number == event.turn and not any(isinstance(entry, QuestionAsked) for entry in previous.entries)


def _add_up_usage(trajectory: Trajectory) -> None:
    """Set the totals from the leaves up: in reverse order, every node precedes its caller."""
    for node in trajectory.nodes.values():
        node.total_usage = node.own_usage
    for node in reversed(trajectory.nodes.values()):
        if node.parent is not None:
            trajectory.nodes[node.parent].total_usage += node.total_usage
