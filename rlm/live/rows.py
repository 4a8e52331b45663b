"""The call tree as rows that fit a screen's height: running and failed nodes first, counts for the rest. Pure.

All texts in a row are printable: none can control a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from rlm._util.text import first_line, printable, quantity

from .nodes import Cell, Group, Loop, Node, State, Used
from .tree import RunState

MAX_NODES: Final = 15  # rows per group; fewer if the tree would not fit
MAX_PLAIN_CALLS: Final = 5  # rows per group: more show nothing new
MAX_FAILED: Final = 3  # rows per group


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the tree: `guide` holds the branch lines, `name` is the node (empty for a group)."""

    guide: str
    state: State
    name: str
    model: str
    text: str
    used: Used
    seconds: float


def rows(state: RunState, *, now: float, height: int) -> list[Row]:
    """At most `height` rows, the root first. `now` is on the clock of the events."""

    def with_quota(quota: int) -> list[Row]:
        return list(islice(_node(state.root, quota=quota, now=now, guide="", below=""), height + 1))

    best = with_quota(MAX_NODES)
    if len(best) <= height:
        return best
    best, fits, too_many = with_quota(0), 0, MAX_NODES
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        candidate = with_quota(middle)
        if len(candidate) <= height:
            best, fits = candidate, middle
        else:
            too_many = middle
    return best[:height]


def group_summary(group: Group) -> str:
    """`1,000 calls: 640 done, 8 failed, 64 running`"""
    numbers = {"done": group.done, "failed": group.failed, "running": len(group.open)}
    states = ", ".join(f"{number:,} {state}" for state, number in numbers.items() if number)
    return f"{quantity(group.asked, 'RLM' if group.recursive else 'call')}: {states}"


def activity(node: Node) -> str:
    """The current step of a node, or its result, in a few words."""
    loop = node.loop
    if loop is None or node.state == "failed":
        return first_line(node.note)
    if node.from_journal:
        return "answered from the journal"
    parts = [_step(node, loop)]
    if node.state == "open" and loop.turn:
        parts.insert(0, f"turn {loop.turn}" if loop.max_turns is None else f"turn {loop.turn}/{loop.max_turns}")
    marks = [
        (loop.errors, "error", "s"),
        (loop.lost, "lost sandbox", "es"),
        (loop.compacted, "compaction", "s"),
        (loop.tools, "tool call", "s"),
    ]
    parts += [quantity(number, noun, ending) for number, noun, ending in marks if number]
    return " · ".join(parts)


def _step(node: Node, loop: Loop) -> str:
    if node.state == "done":
        return quantity(loop.turn, "turn")
    if loop.asking:
        return "waiting for the model"
    match loop.cell:
        case Cell(ended=None) as cell:
            pending = loop.calls_open
            return f"cell {cell.number}" + (f", {quantity(pending, 'call')} pending" if pending else "")
        case Cell() as cell:
            return f"cell {cell.number} finished"
        case None:
            return "ready" if loop.ready else "waiting for a sandbox"


def _node(node: Node, *, quota: int, now: float, guide: str, below: str) -> Iterator[Row]:
    """The rows of a node and its subtree; `below` is the guide of the subtree."""
    yield Row(
        guide=guide,
        state=node.state,
        name=node.name,
        model=printable(node.model),
        text=activity(node),
        used=node.used,
        seconds=max(0.0, (now if node.ended is None else node.ended) - node.started),
    )
    if node.loop is None:
        return
    groups = _groups(node.loop, quota)
    for number, group in enumerate(groups, 1):
        last = number == len(groups)
        to_it, to_below = f"{below}{'└─' if last else '├─'}", f"{below}{'  ' if last else '│ '}"
        yield from _group(group, quota=quota, now=now, guide=to_it, below=to_below)


def _groups(loop: Loop, quota: int) -> list[Group]:
    """Groups with a row each: those with open calls, and the newest. The others are merged into one."""
    groups = list(loop.groups.values())
    cut = len(groups) - max(1, quota)
    old = [group for place, group in enumerate(groups) if place < cut and not group.open]
    shown = [group for place, group in enumerate(groups) if place >= cut or group.open]
    if loop.earlier is None and not old:
        return shown
    first = loop.earlier or old[0]
    earlier = Group(recursive=first.recursive, batch=0, model=first.model, started=first.started, latest=first.latest)
    for group in ([loop.earlier] if loop.earlier else []) + old:
        earlier.merge(group)
    return [earlier, *shown]


def _group(group: Group, *, quota: int, now: float, guide: str, below: str) -> Iterator[Row]:
    nodes = _visible_nodes(group, quota)
    if group.asked == 1 and nodes:
        yield from _node(nodes[0], quota=quota, now=now, guide=guide, below=below)
        return
    yield Row(
        guide=guide,
        state="open" if group.open else "failed" if group.failed and not group.done else "done",
        name="",
        model="several models" if group.model is None else printable(group.model),
        text=group_summary(group),
        used=group.used,
        seconds=max(0.0, (now if group.open else group.latest) - group.started),
    )
    for number, node in enumerate(nodes, 1):
        last = number == len(nodes)
        to_it, to_below = f"{below}{'└─' if last else '├─'}", f"{below}{'  ' if last else '│ '}"
        yield from _node(node, quota=quota, now=now, guide=to_it, below=to_below)


def _visible_nodes(group: Group, quota: int) -> list[Node]:
    """The nodes of a group with a row each: running, failed and, if all of them fit, finished RLMs."""
    if group.asked == 1:
        return [*group.open.values(), *group.ended, *group.failures]
    room = quota if group.recursive else min(quota, MAX_PLAIN_CALLS)
    running = list(islice(group.open.values(), room))
    failed = list(group.failures)[-min(MAX_FAILED, room) :] if room else []
    done = list(group.ended) if group.recursive and group.asked <= room else []
    return [*running, *failed, *done]
