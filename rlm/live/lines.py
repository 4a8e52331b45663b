"""A run as lines, for a log or a pipe: what the root does, what fails, how far batches are; never one a call of a batch."""

from __future__ import annotations

import threading
from typing import Final

from rich.console import Console
from rich.text import Text

from rlm.events import (
    AnswerReplayed,
    CellFinished,
    Compacted,
    Event,
    ModelFailed,
    ReplayDiverged,
    RLMFinished,
    RLMStarted,
    RunFinished,
    RunResumed,
    SandboxLost,
    SubCallFinished,
    TurnStarted,
)

from .meters import dollars, duration, short
from .nodes import Group
from .rows import counts, one_line
from .tree import RunState

PROGRESS_SECONDS: Final = 10.0  # between two lines about a batch under way


class PlainView:
    """Prints short lines; a listener of events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tree = RunState()
        self._lock = threading.Lock()
        self._latest = 0.0

    def __call__(self, event: Event) -> None:
        with self._lock:
            caller, batch = self._batch_of(event.node)
            self._tree(event)
            if batch is None:
                told = self._told(event)
            else:  # of what happens within it, how far it is, from time to time
                late = isinstance(event, SubCallFinished) and event.ts - self._latest >= PROGRESS_SECONDS
                told = counts(batch) if late else ""
            if told:
                self._latest = event.ts
                self._console.print(Text(f"{caller}  {told}"), soft_wrap=True)

    def _batch_of(self, name: str) -> tuple[str, Group | None]:
        """The batch that a node or one above it is in, and who called it; the node itself where there is none."""
        node = self._tree.find(name)
        while node is not None and node.parent is not None:
            if node.group is not None and node.group.batch:
                return node.parent.name, node.group
            node = node.parent
        return name, None

    def _told(self, event: Event) -> str:
        """What is to be said of an event."""
        match event:
            case RunResumed():
                return f"goes on, with {event.recorded:,} recorded calls"
            case ReplayDiverged():
                return f"call {event.ordinal} is not the recorded one: from here on the network is asked"
            case AnswerReplayed():
                return "answered from the journal"
            case RLMStarted():
                return f"RLM on {one_line(event.model)}, context: {event.context_type} of {event.context_size:,}"
            case TurnStarted():
                return event.label
            case ModelFailed():
                return f"{one_line(event.model)} failed: {one_line(event.error)}"
            case CellFinished():
                return self._cell(event)
            case SubCallFinished(ok=False):
                return f"failed: {one_line(event.text)}"
            case Compacted():
                return f"{event.messages:,} messages made shorter"
            case SandboxLost():
                return f"sandbox lost and replaced: {one_line(event.reason)}"
            case RLMFinished():
                return f"answer ({event.stop_reason}, {event.iterations} turns): {one_line(event.answer[:400])}"
            case RunFinished():
                return self._end(event)
            case _:
                return ""

    def _cell(self, event: CellFinished) -> str:
        """Its batches, and how it failed; nothing of a cell that just ran."""
        node = self._tree.find(event.node)
        loop = None if node is None else node.loop
        batches = (
            []
            if loop is None
            else [counts(group) for (cell, batch), group in loop.groups.items() if batch and cell == event.cell]
        )
        result = event.result
        failed = [] if result.outcome == "ok" else [f"{result.outcome}: {one_line(_last_line(result.error))}"]
        return f"cell {event.cell}: {', '.join(batches + failed)}" if batches or failed else ""

    def _end(self, event: RunFinished) -> str:
        used = event.usage
        cost = "unknown" if used.cost_usd is None else dollars(used.cost_usd)
        how = f"failed: {one_line(event.error)}, " if event.error else ""
        return f"{how}{duration(event.seconds)}, {used.calls:,} calls, {short(used.total_tokens)} tokens, cost {cost}"


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
