"""What happened in a run, as a tree: nodes with their turns, and in these replies and cells. Pure.

A node is an RLM or a plain call. Any beginning of a run's events gives a record: what has not ended has no end.
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
class Cell:
    """A cell, `calls` the nodes that it called. Without `result` it had not ended. Times as in events, in seconds.

    `tools` are its calls of functions of the host.
    """

    number: int
    code: str
    started: float
    ended: float | None = None
    result: CellResult | None = None
    calls: list[str] = field(default_factory=list)
    tools: list[ToolUsed] = field(default_factory=list)


Entry = ModelReplied | ModelFailed | SandboxLost | Compacted | ReplayDiverged | QuestionAsked | LimitsRaised | Cell


@dataclass(slots=True, kw_only=True)
class Turn:
    """What followed one question to the model. `last`: the one more turn that a limit leaves, to answer with what there is.

    Turn 0 is what happened outside of any turn: the one reply of a plain call.
    """

    number: int
    of: int | None = 0
    last: bool = False
    started: float
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Node:
    """An RLM or a plain call.

    `started` is when it was asked for, `ready` when its sandbox had its context. `ok` is None while it has no answer.
    `answer` is what its caller was given: where `ok` is false, the reason why there is none. `own` is what its model calls
    used, `total` that with all nodes below. `batch` groups the calls of one `llm_batch`, 0 is a single one.
    `remembered`: its answer came from the journal, and its RLM was not run again.
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
    remembered: bool = False
    stop_reason: StopReason | None = None
    own: Usage = field(default_factory=Usage)
    total: Usage = field(default_factory=Usage)
    turns: list[Turn] = field(default_factory=list)
    children: list[str] = field(default_factory=list)

    @property
    def cells(self) -> list[Cell]:
        return [entry for turn in self.turns for entry in turn.entries if isinstance(entry, Cell)]

    @property
    def open_cell(self) -> Cell | None:
        """The cell that runs, as far as the events go."""
        cell = self.newest_cell
        return cell if cell is not None and cell.ended is None else None

    @property
    def newest_cell(self) -> Cell | None:
        """The latest cell of the newest turn."""
        newest = self.turns[-1].entries if self.turns else []
        return next((entry for entry in reversed(newest) if isinstance(entry, Cell)), None)


@dataclass(slots=True, kw_only=True)
class Record:
    """One run. `nodes` are in the order in which they were asked for, the root first. `ended` is None if it did not end.

    `latest` is the time of the last event. `resumed` has how it was gone on with after an interruption, each time.
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
    resumed: list[RunResumed] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def root(self) -> Node:
        return self.nodes[ROOT]


def record_of(events: Iterable[Event]) -> Record:
    """The record of events in their order.

    Raises:
        ConfigError: there is no event.
    """
    record: Record | None = None
    for event in events:
        if record is None:
            record = Record(run_id=event.run_id, started=event.ts, latest=event.ts)
        _add(record, event)
    if record is None:
        raise ConfigError("The record of this run is empty: nothing has happened in it yet.")
    _sum_up(record)
    return record


def _add(record: Record, event: Event) -> None:
    node = _node(record, event.node, event.ts)
    record.latest = max(record.latest, event.ts)
    match event:
        case RunStarted():
            record.query, record.depth, record.context_bytes = event.query, event.depth, event.context_bytes
            record.models = {str(level): name for level, name in event.models.items()}
            node.prompt = event.query
        case RunResumed():
            record.resumed.append(event)
            record.ended = record.stop_reason = record.error = None
            node.ended = node.ok = None
        case RLMStarted():
            _begin(node)  # in a run that was resumed, what is recorded of its work follows once more
            node.recursive, node.ready, node.depth, node.model = True, event.ts, event.depth, event.model
            node.sandbox, node.context_type, node.context_size = event.sandbox, event.context_type, event.context_size
            node.context_ends = event.context_head, event.context_tail
        case TurnStarted():
            node.turns.append(Turn(number=event.turn, of=event.of, last=_is_last(node, event), started=event.ts))
        case ModelReplied() | ModelFailed():
            node.own += event.usage or Usage()
            _turn(node, event).entries.append(event)
        case SandboxLost():
            node.sandbox = event.replacement
            _turn(node, event).entries.append(event)
        case Compacted() | ReplayDiverged() | LimitsRaised():
            _turn(node, event).entries.append(event)
        case QuestionAsked():  # what follows answers this one
            node.ok = node.answer = node.ended = node.stop_reason = None
            _turn(node, event).entries.append(event)
        case CellStarted():
            _turn(node, event).entries.append(Cell(number=event.cell, code=event.code, started=event.ts))
        case CellFinished():
            if (cell := node.open_cell) is not None:
                cell.ended, cell.result = event.ts, event.result
        case ToolUsed():
            if (cell := node.newest_cell) is not None:  # a function may end after its cell
                cell.tools.append(event)
        case SubCallStarted():
            if not event.recursive:
                _begin(node)
            node.prompt, node.model, node.recursive = event.prompt, event.model, event.recursive
            node.started, node.batch = event.ts, event.batch
            if (cell := record.nodes[node.parent or ROOT].open_cell) is not None:
                cell.calls.append(node.id)
        case AnswerReplayed():
            node.remembered = True
        case SubCallFinished():
            node.ok, node.answer, node.ended = event.ok, event.text, event.ts
        case RLMFinished():
            node.ok, node.answer, node.ended, node.stop_reason = True, event.answer, event.ts, event.stop_reason
        case RunFinished():
            record.ended, record.stop_reason, record.error = event.ts, event.stop_reason, event.error
            node.ended, node.ok = event.ts, event.error is None


def _node(record: Record, name: str, ts: float) -> Node:
    """The node of this name. A new one is put below its parent."""
    missing = []
    while name not in record.nodes:
        missing.append(name)
        if name == ROOT:
            break
        name = name.rpartition(".")[0] or ROOT
    for new in reversed(missing):
        parent = None if new == ROOT else new.rpartition(".")[0] or ROOT
        record.nodes[new] = Node(id=new, parent=parent, recursive=new == ROOT, started=ts)
        if parent is not None:
            record.nodes[parent].children.append(new)
    return record.nodes[missing[0] if missing else name]


def _begin(node: Node) -> None:
    node.turns, node.own = [], Usage()
    node.ok = node.answer = node.ended = node.stop_reason = None
    node.remembered = False


def _turn(node: Node, event: Event) -> Turn:
    if not node.turns:
        node.turns.append(Turn(number=0, started=event.ts))
    return node.turns[-1]


def _is_last(node: Node, event: TurnStarted) -> bool:
    """The last turn has the number of the turn before it. Those of a further question are counted from 1 again."""
    if event.turn == 0 or not node.turns:
        return event.turn == 0
    before = node.turns[-1]
    return before.number == event.turn and not any(isinstance(entry, QuestionAsked) for entry in before.entries)


def _sum_up(record: Record) -> None:
    """Totals from the leaves up: in reverse, every node comes before the one that called it."""
    for node in record.nodes.values():
        node.total = node.own
    for node in reversed(record.nodes.values()):
        if node.parent is not None:
            record.nodes[node.parent].total += node.total
