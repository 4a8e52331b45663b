"""Events as lines: `format_event` words every line, and `LineView` prints those that a log or a pipe needs."""

from __future__ import annotations

import threading
from typing import Final

from rich.console import Console
from rich.text import Text

from rlm._util.text import dollars, duration, first_line, quantity
from rlm.events import (
    AnswerReplayed,
    CellFinished,
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
    SandboxLost,
    SubCallFinished,
    SubCallStarted,
    ToolUsed,
    TurnStarted,
)

from .nodes import Group
from .rows import group_summary
from .tree import RunState

PROGRESS_SECONDS: Final = 10.0  # minimum time between two lines about the same batch
SANDBOX_CHARS: Final = 12  # start of a container's ID, as `docker ps` shows it


def format_event(event: Event) -> str:
    """One line about an event, printable and without its node; empty for an event that has no line."""
    match event:
        case RunResumed():
            in_flight = f", {event.in_flight:,} of them in flight" if event.in_flight else ""
            return f"resumed with {quantity(event.recorded, 'recorded call')}{in_flight}"
        case ReplayDiverged():
            return f"call {event.ordinal} diverged from the recording; continuing with live calls"
        case AnswerReplayed():
            return "answered from the journal"
        case QuestionAsked():
            return f"further question: {first_line(event.query)}"
        case LimitsRaised():
            return f"limits raised: {', '.join(f'{name}={value}' for name, value in event.limits.items())}"
        case RLMStarted():
            context = f"{first_line(event.context_type)} of length {event.context_size:,}"
            return f"RLM on {first_line(event.model)}, sandbox {_sandbox(event.sandbox)}, context: {context}"
        case TurnStarted():
            return event.label
        case ModelReplied() if event.thinking:
            return f"thought for {quantity(len(event.thinking), 'character')}"
        case CellFinished(result=result) if result.outcome != "ok":
            return f"cell {event.cell}: {result.outcome}: {first_line(_last_line(result.error))}"
        case CellFinished():
            return f"cell {event.cell}: ok"
        case SubCallStarted():
            return f"{'RLM' if event.recursive else 'call'} to {first_line(event.model)}: {first_line(event.prompt)}"
        case SubCallFinished():
            return f"{'answered' if event.ok else 'failed'}: {first_line(event.text)}"
        case ToolUsed():
            return f"tool {'called' if event.ok else 'failed'}: {first_line(event.tool + event.arguments)}"
        case ModelFailed():
            return f"{first_line(event.model)} failed: {first_line(event.error)}"
        case Compacted():
            return f"compacted {quantity(event.messages, 'message')}: {first_line(event.summary)}"
        case SandboxLost():
            restored = "restored by running its cells again" if event.restored else "only `context` is restored"
            return f"sandbox {_sandbox(event.sandbox)} lost, {restored}: {first_line(event.reason)}"
        case RLMFinished():
            end = f"({event.stop_reason}, {quantity(event.iterations, 'turn')})"
            answer = first_line(event.answer, 400)
            return f"answer {end}: {answer}" if answer else f"no answer {end}"
        case RunFinished(usage=usage):
            totals = _totals(event.seconds, usage.calls, usage.total_tokens, dollars(usage.cost_usd))
            if event.error is None or event.error == "cancelled":
                return f"{event.error or 'finished'} after {totals}"
            return f"failed after {totals}: {first_line(event.error)}"
        case _:
            return ""


class LineView:
    """Prints a run as short lines; a listener of events, in any thread.

    It leaves out single calls and cells that succeed. A batch gets a line when its cell ends and one every ten seconds. A
    turn of the root also shows the totals of the run.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._state = RunState()
        self._lock = threading.Lock()
        self._latest = 0.0

    def __call__(self, event: Event) -> None:
        with self._lock:
            node, batch = self._batch_of(event.node)
            self._state(event)
            if batch is None:
                line = self._line(event)
            else:
                due = isinstance(event, SubCallFinished) and event.ts - self._latest >= PROGRESS_SECONDS
                line = group_summary(batch) if due else ""
            if line:
                self._latest = event.ts
                self._console.print(Text(f"{node}  {line}"), soft_wrap=True)

    def _batch_of(self, name: str) -> tuple[str, Group | None]:
        """The batch that holds a node or one of its ancestors, with the batch's caller; without one, the node itself."""
        node = self._state.find(name)
        while node is not None and node.parent is not None:
            if node.group is not None and node.group.batch:
                return node.parent.name, node.group
            node = node.parent
        return name, None

    def _line(self, event: Event) -> str:
        match event:
            case TurnStarted(node="0") if self._state.used.calls:
                return f"{format_event(event)}: {self._totals_so_far()}"
            case CellFinished():
                return self._cell(event)
            case SubCallStarted() | SubCallFinished(ok=True) | ToolUsed(ok=True) | ModelReplied():
                return ""
            case _:
                return format_event(event)

    def _totals_so_far(self) -> str:
        state, used = self._state, self._state.used
        seconds = state.latest - (state.started or state.latest)
        cost = dollars(None if used.unknown and not used.dollars else used.dollars)
        cost = f"≥{cost}" if used.unknown and used.dollars else cost
        return _totals(seconds, used.calls, used.tokens, cost)

    def _cell(self, event: CellFinished) -> str:
        """A cell's batches and failure; empty for a cell that just succeeded."""
        node = self._state.find(event.node)
        groups = {} if node is None or node.loop is None else node.loop.groups
        batches = [group_summary(group) for (cell, batch), group in groups.items() if batch and cell == event.cell]
        if not batches:
            return "" if event.result.outcome == "ok" else format_event(event)
        return f"{format_event(event)}; {', '.join(batches)}"


def _totals(seconds: float, calls: int, tokens: int, cost: str) -> str:
    return f"{duration(seconds)}, {quantity(calls, 'model call')}, {quantity(tokens, 'token')}, cost {cost}"


def _sandbox(name: str) -> str:
    return first_line(name[:SANDBOX_CHARS])


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
