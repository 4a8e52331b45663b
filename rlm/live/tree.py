"""The state of a run as its events go by: which nodes are open, what they do, what they have used. Pure; times are events'.

Each event costs the same, however large the run, and what is kept is bounded; see `nodes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rlm.events import (
    AnswerReplayed,
    CellFinished,
    CellOutput,
    CellStarted,
    Compacted,
    Event,
    ModelFailed,
    ModelReplied,
    RLMFinished,
    RLMStarted,
    RunFinished,
    RunStarted,
    SandboxLost,
    SubCallFinished,
    SubCallStarted,
    ToolUsed,
    TurnStarted,
)
from rlm.types import StopReason, Usage

from .nodes import OUTPUT_CHARS, Cell, Group, Loop, Node, State

ROOT: Final = "0"
KEPT_GROUPS: Final = 8  # of an RLM; what is older is one line
CODE_CHARS: Final = 8_000  # of a cell: more than a screen shows
LINE_CHARS: Final = 200  # of a prompt, an error, a reason: one line is shown


class RunState:
    """The run so far.

    Attributes:
        root: the first RLM.
        used: what all calls used.
        rlms: how many RLMs have begun.
        focus: the RLM whose cell is shown; None before the first cell.
        ended: when the run ended, as an event's time.
    """

    def __init__(self) -> None:
        self.root = Node(name=ROOT, parent=None, group=None, model="", note="", started=0.0, loop=Loop())
        self.run_id = ""
        self.query: str | None = None
        self.depth = 0
        self.used = self.root.used
        self.rlms = 0
        self.started: float | None = None
        self.latest = 0.0
        self.ended: float | None = None
        self.stop_reason: StopReason | None = None
        self.error: str | None = None
        self.focus: Node | None = None
        self._open = {ROOT: self.root}

    @property
    def open_nodes(self) -> int:
        """RLMs and calls that have not ended."""
        return len(self._open)

    def find(self, name: str) -> Node | None:
        """The node of this name, while it is open."""
        return self._open.get(name)

    def __call__(self, event: Event) -> None:
        """Take in the next event; those that change nothing here, or come late, are let pass."""
        self.latest = event.ts
        if self.started is None:
            self.started = self.root.started = event.ts
            self.run_id = event.run_id
        match event:
            case SubCallStarted():
                self._call(event)
                return
            case RunFinished():
                self._finish(event)
                return
            case ModelReplied() | ModelFailed() if event.node not in self._open:  # of a call that was given up
                self.used.add(event.usage or Usage())
                return
        node = self._open.get(event.node)
        if node is None:
            return
        match event:
            case ModelReplied() | ModelFailed():
                self._spent(node, event.usage)
            case SubCallFinished():
                self._end(node, "done" if event.ok else "failed", event.ts, event.text)
            case RLMStarted():
                self._begin_rlm(node, event)
            case AnswerReplayed():
                node.from_journal = True
            case RunStarted():
                self.query, self.depth = event.query, event.depth
                node.model = next(iter(event.models.values()), "")
            case _ if node.loop is not None:
                self._in_loop(node, node.loop, event)

    def _in_loop(self, node: Node, loop: Loop, event: Event) -> None:
        match event:
            case CellOutput():
                if loop.cell is not None:
                    loop.cell.write(event.text)
            case TurnStarted():
                loop.turn, loop.of, loop.asking = event.turn, event.of, True
            case CellStarted():
                loop.asking = False
                loop.cell = Cell(number=event.cell, code=event.code[:CODE_CHARS], started=event.ts)
                self._look_at(node)
            case CellFinished():
                self._end_cell(loop, event)
            case ToolUsed():
                loop.tools += 1
            case Compacted():
                loop.compacted += 1
            case SandboxLost():
                loop.lost += 1
            case RLMFinished():
                loop.asking = False
                if node is self.root:
                    self._end(node, "done", event.ts, "")

    def _spent(self, node: Node, usage: Usage | None) -> None:
        """Count it for the node, those above, and their groups."""
        if node.loop is not None:
            node.loop.asking = False
        if usage is None:
            return
        above: Node | None = node
        while above is not None:
            above.used.add(usage)
            if above.group is not None:
                above.group.used.add(usage)
            above = above.parent

    def _call(self, event: SubCallStarted) -> None:
        parent = self._open.get(event.node.rpartition(".")[0])
        if parent is None or parent.loop is None:
            return
        if (before := self._open.get(event.node)) is not None:  # its cell runs again, in a new sandbox
            self._end(before, "failed", event.ts, "asked again")
        loop = parent.loop
        key = (0 if loop.cell is None else loop.cell.number, event.batch)
        group = loop.groups.get(key)
        if group is None:
            group = loop.groups[key] = Group(
                recursive=event.recursive, batch=event.batch, model=event.model, started=event.ts, latest=event.ts
            )
            _forget_oldest(loop)
        elif group.model != event.model:
            group.model = None
        group.asked += 1
        node = Node(
            name=event.node,
            parent=parent,
            group=group,
            model=event.model,
            note=event.prompt[:LINE_CHARS],
            started=event.ts,
            loop=Loop() if event.recursive else None,
        )
        group.open[event.node] = self._open[event.node] = node

    def _begin_rlm(self, node: Node, event: RLMStarted) -> None:
        self.rlms += 1
        node.model = event.model
        node.loop = Loop(ready=True)

    def _end_cell(self, loop: Loop, event: CellFinished) -> None:
        cell, result = loop.cell, event.result
        if cell is None:
            return
        cell.ended, cell.outcome = event.ts, result.outcome
        cell.error = result.error[-OUTPUT_CHARS:]
        if not cell.output:  # it was not streamed
            cell.write(result.stdout)
            cell.write(result.stderr)
        loop.errors += result.outcome != "ok"
        for node in _open_below(loop):
            self._end(node, "failed", event.ts, "the cell ended before this call was answered")

    def _end(self, node: Node, state: State, ts: float, note: str) -> None:
        """Close a node, and whatever is open below it."""
        if node.loop is not None:
            for below in _open_below(node.loop):
                self._end(below, "failed", ts, "its caller has ended")
            if node.group is not None:  # the calls of an RLM that has its answer are one line
                node.loop.groups, node.loop.earlier, node.loop.cell = {}, None, None
        self._open.pop(node.name, None)
        node.state, node.ended = state, ts
        if state == "failed":
            node.note = note[:LINE_CHARS]
        if self.focus is node and node.parent is not None:
            self.focus = node.parent
        if (group := node.group) is None:
            return
        group.open.pop(node.name, None)
        group.latest = ts
        if state == "done":
            group.done += 1
            group.ended.append(node)
        else:
            group.failed += 1
            group.failures.append(node)

    def _look_at(self, node: Node) -> None:
        """Follow one RLM until it has its answer, or one below it runs a cell: the eye needs rest."""
        if self.focus is None or node.name.startswith(f"{self.focus.name}."):
            self.focus = node

    def _finish(self, event: RunFinished) -> None:
        self.ended, self.stop_reason, self.error = event.ts, event.stop_reason, event.error
        if self.root.state == "open":
            self._end(self.root, "failed", event.ts, event.error or "")
        usage = event.usage  # with what an earlier process of a resumed run had used
        self.used.calls, self.used.tokens = usage.calls, usage.total_tokens
        self.used.dollars, self.used.unknown = usage.cost_usd or 0.0, usage.cost_usd is None


def _open_below(loop: Loop) -> Iterator[Node]:
    """The open calls of an RLM; they may be closed meanwhile."""
    for group in loop.groups.values():
        yield from list(group.open.values())


def _forget_oldest(loop: Loop) -> None:
    """Of too many groups, the oldest in which nothing is open becomes a part of `earlier`."""
    if len(loop.groups) <= KEPT_GROUPS:
        return
    for key, group in list(loop.groups.items())[:-1]:
        if not group.open:
            del loop.groups[key]
            if loop.earlier is None:
                loop.earlier = Group(
                    recursive=group.recursive,
                    batch=group.batch,
                    model=group.model,
                    started=group.started,
                    latest=group.latest,
                )
            loop.earlier.merge(group)
            return
