"""A run as lines, for a log or a pipe: what the root does, what fails, how far batches are; never one a call of a batch."""

from __future__ import annotations

import threading
from typing import Final

from rich.console import Console
from rich.text import Text

from rlm.config import Limits
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
from .rows import counts, one_line
from .tree import Group, Tree

PROGRESS_SECONDS: Final = 10.0  # between two lines about a batch under way


class PlainView:
    """Prints short lines; a listener of events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tree = Tree()
        self._lock = threading.Lock()
        self._latest = 0.0

    def set_limits(self, limits: Limits) -> None:
        """Limits are not shown here."""

    def __call__(self, event: Event) -> None:
        with self._lock:
            group = self._group_of(event)
            self._tree(event)
            told = self._told(event, group)
            if told:
                self._latest = event.ts
                self._console.print(Text(f"{event.node}  {told}", overflow="ellipsis", no_wrap=True), soft_wrap=True)

    def _group_of(self, event: Event) -> Group | None:
        """The batch that this node or one above it is in."""
        node = self._tree.find(event.node)
        while node is not None:
            if node.group is not None and node.group.batch:
                return node.group
            node = node.parent
        return None

    def _told(self, event: Event, group: Group | None) -> str:
        """What is to be said of an event; of what happens within a batch, how far that is, from time to time."""
        if group is not None:
            late = isinstance(event, SubCallFinished) and event.ts - self._latest >= PROGRESS_SECONDS
            return f"of {counts(group)}" if late else ""
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
                return f"turn {event.turn} of {event.of}"
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
