"""The state of a run, built from its events: open nodes, their progress, their usage. Pure; times come from the events.

An event takes constant time however large the run, and memory is bounded; see `nodes.py`.
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
KEPT_GROUPS: Final = 8  # groups of an RLM shown one by one; older ones are summed up in one line
CODE_CHARS: Final = 8_000  # the start of a cell's code: more than a screen shows
LINE_CHARS: Final = 200  # the start of a prompt or reason: only one line is shown


class RunState:
    """The run so far.

    Attributes:
        root: the first RLM.
        used: usage of all calls.
        rlms: number of RLMs started.
        focus: the RLM whose cell is shown; None before the first cell.
        ended: the time of the run's last event; None while it runs.
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
        """The number of open RLMs and calls."""
        return len(self._open)

    def find(self, name: str) -> Node | None:
        """The open node of this name."""
        return self._open.get(name)

    def __call__(self, event: Event) -> None:
        """Apply the next event. Ignores events that change nothing here or arrive late."""
        self.latest = event.ts
        if self.started is None:
            self.started = self.root.started = event.ts
            self.run_id = event.run_id
        match event:
            case SubCallStarted():
                self._start_call(event)
                return
            case RunFinished():
                self._finish(event)
                return
            case ModelReplied() | ModelFailed() if event.node not in self._open:  # the call was abandoned
                self.used.add(event.usage or Usage())
                return
        node = self._open.get(event.node)
        if node is None:
            return
        match event:
            case ModelReplied() | ModelFailed():
                self._add_usage(node, event.usage)
            case SubCallFinished():
                self._end(node, "done" if event.ok else "failed", event.ts, event.text)
            case RLMStarted():
                self._start_rlm(node, event)
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
                loop.turn, loop.max_turns, loop.asking = event.turn, event.of, True
            case CellStarted():
                loop.asking = False
                loop.cell = Cell(number=event.cell, code=event.code[:CODE_CHARS], started=event.ts)
                self._move_focus(node)
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

    def _add_usage(self, node: Node, usage: Usage | None) -> None:
        """Count usage for the node, its ancestors, and their groups."""
        if node.loop is not None:
            node.loop.asking = False
        if usage is None:
            return
        ancestor: Node | None = node
        while ancestor is not None:
            ancestor.used.add(usage)
            if ancestor.group is not None:
                ancestor.group.used.add(usage)
            ancestor = ancestor.parent

    def _start_call(self, event: SubCallStarted) -> None:
        parent = self._open.get(event.node.rpartition(".")[0])
        if parent is None or parent.loop is None:
            return
        if (before := self._open.get(event.node)) is not None:  # its cell runs again in a new sandbox
            self._end(before, "failed", event.ts, "sent again in a new sandbox")
        loop = parent.loop
        key = (0 if loop.cell is None else loop.cell.number, event.batch)
        group = loop.groups.get(key)
        if group is None:
            group = loop.groups[key] = Group(
                recursive=event.recursive, batch=event.batch, model=event.model, started=event.ts, latest=event.ts
            )
            _drop_oldest(loop)
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

    def _start_rlm(self, node: Node, event: RLMStarted) -> None:
        self.rlms += 1
        node.model = event.model
        node.loop = Loop(ready=True)

    def _end_cell(self, loop: Loop, event: CellFinished) -> None:
        cell, result = loop.cell, event.result
        if cell is None:
            return
        cell.ended, cell.outcome = event.ts, result.outcome
        cell.error = result.error[-OUTPUT_CHARS:]
        if not cell.output:  # not streamed
            cell.write(result.stdout)
            cell.write(result.stderr)
        loop.errors += result.outcome != "ok"
        for node in _open_below(loop):
            self._end(node, "failed", event.ts, "the cell ended before this call was answered")

    def _end(self, node: Node, state: State, ts: float, note: str) -> None:
        """Close a node and all open nodes below it."""
        if node.loop is not None:
            for below in _open_below(node.loop):
                self._end(below, "failed", ts, "its caller ended")
            if node.group is not None:  # a finished RLM is one line
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

    def _move_focus(self, node: Node) -> None:
        """Show the cells of one RLM until it finishes, or one below it runs a cell. A jumping view is unreadable."""
        if self.focus is None or node.name.startswith(f"{self.focus.name}."):
            self.focus = node

    def _finish(self, event: RunFinished) -> None:
        self.ended, self.stop_reason, self.error = event.ts, event.stop_reason, event.error
        if self.root.state == "open":
            self._end(self.root, "failed", event.ts, event.error or "")
        usage = event.usage  # includes the usage of earlier processes of a resumed run
        self.used.calls, self.used.tokens = usage.calls, usage.total_tokens
        self.used.dollars, self.used.unknown = usage.cost_usd or 0.0, usage.cost_usd is None


def _open_below(loop: Loop) -> Iterator[Node]:
    """The open calls of an RLM; the caller may close them while iterating."""
    for group in loop.groups.values():
        yield from list(group.open.values())


def _drop_oldest(loop: Loop) -> None:
    """With too many groups, merge the oldest without open calls into `earlier`."""
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
