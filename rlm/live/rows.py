"""The tree as rows for a screen of some height: running and failed nodes first, the rest as counts. Pure.

The texts in a row may be shown: nothing in them can act on a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from rlm._util.text import printable

from .nodes import Cell, Group, Loop, Node, State, Used
from .tree import RunState

MOST: Final = 15  # nodes shown of a group, if the tree fits then
PLAIN_SHOWN: Final = 5  # plain calls of one group: more of them tell no more
FAILED_SHOWN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the tree: `guide` is what leads to it from above, `name` its node (empty for a group)."""

    guide: str
    state: State
    name: str
    model: str
    text: str
    used: Used
    seconds: float


def rows(tree: RunState, *, now: float, height: int) -> list[Row]:
    """At most `height` rows, the root first. `now` is on the clock of the events."""

    def of(quota: int) -> list[Row]:
        return list(islice(_node(tree.root, quota=quota, now=now, guide="", below=""), height + 1))

    found = of(MOST)
    if len(found) <= height:
        return found
    found, fits, too_many = of(0), 0, MOST
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        seen = of(middle)
        if len(seen) <= height:
            found, fits = seen, middle
        else:
            too_many = middle
    return found[:height]


def one_line(text: str) -> str:
    """The first line of a text that has something in it, fit to be shown."""
    return printable(next((line for line in text.split("\n") if line.strip()), "").strip().replace("\t", " "))


def counts(group: Group) -> str:
    """`1,000 calls: 640 done, 8 failed, 64 running`"""
    kind = "RLM" if group.recursive else "call"
    numbers = {"done": group.done, "failed": group.failed, "running": len(group.open)}
    told = ", ".join(f"{number:,} {what}" for what, number in numbers.items() if number)
    return f"{group.asked:,} {kind}{'s' * (group.asked != 1)}: {told}"


def doing(node: Node) -> str:
    """What a node does, or did, in some words."""
    loop = node.loop
    if loop is None or node.state == "failed":
        return one_line(node.note)
    if node.from_journal:
        return "answered from the journal"
    said = [_step(node, loop)]
    if node.state == "open" and loop.turn:
        said.insert(0, f"turn {loop.turn}" if loop.of is None else f"turn {loop.turn}/{loop.of}")
    marks = {
        "error": loop.errors,
        "lost sandbox": loop.lost,
        "compaction": loop.compacted,
        "tool call": loop.tools,
    }
    said += [f"{number} {what}{_plural(what) * (number != 1)}" for what, number in marks.items() if number]
    return " · ".join(said)


def _plural(word: str) -> str:
    return "es" if word.endswith("x") else "s"


def _step(node: Node, loop: Loop) -> str:
    if node.state == "done":
        return f"{loop.turn} turn{'s' * (loop.turn != 1)}"
    if loop.asking:
        return "asks the model"
    match loop.cell:
        case Cell(ended=None) as cell:
            waiting = loop.calls_open
            calls = f", waits for {waiting:,} call{'s' * (waiting != 1)}" if waiting else ""
            return f"cell {cell.number}{calls}"
        case Cell() as cell:
            return f"cell {cell.number} ended"
        case None:
            return "ready" if loop.ready else "waits for a sandbox"


def _node(node: Node, *, quota: int, now: float, guide: str, below: str) -> Iterator[Row]:
    """The row of a node and those below it; `below` leads to the latter."""
    yield Row(
        guide=guide,
        state=node.state,
        name=node.name,
        model=printable(node.model),
        text=doing(node),
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
    """The groups that get rows of their own: those with open calls, and the newest; the rest is one."""
    kept = list(loop.groups.values())
    cut = len(kept) - max(1, quota)
    apart = [group for place, group in enumerate(kept) if place < cut and not group.open]
    shown = [group for place, group in enumerate(kept) if place >= cut or group.open]
    if loop.earlier is None and not apart:
        return shown
    first = loop.earlier or apart[0]
    earlier = Group(recursive=first.recursive, batch=0, model=first.model, started=first.started, latest=first.latest)
    for group in ([loop.earlier] if loop.earlier else []) + apart:
        earlier.merge(group)
    return [earlier, *shown]


def _group(group: Group, *, quota: int, now: float, guide: str, below: str) -> Iterator[Row]:
    nodes = _shown(group, quota)
    if group.asked == 1 and nodes:
        yield from _node(nodes[0], quota=quota, now=now, guide=guide, below=below)
        return
    yield Row(
        guide=guide,
        state="open" if group.open else "failed" if group.failed and not group.done else "done",
        name="",
        model="several models" if group.model is None else printable(group.model),
        text=counts(group),
        used=group.used,
        seconds=max(0.0, (now if group.open else group.latest) - group.started),
    )
    for number, node in enumerate(nodes, 1):
        last = number == len(nodes)
        to_it, to_below = f"{below}{'└─' if last else '├─'}", f"{below}{'  ' if last else '│ '}"
        yield from _node(node, quota=quota, now=now, guide=to_it, below=to_below)


def _shown(group: Group, quota: int) -> list[Node]:
    """The nodes of a group that get a row: running, failed, and where there is room for all, RLMs that are done."""
    if group.asked == 1:
        return [*group.open.values(), *group.ended, *group.failures]
    room = quota if group.recursive else min(quota, PLAIN_SHOWN)
    running = list(islice(group.open.values(), room))
    failed = list(group.failures)[-min(FAILED_SHOWN, room) :] if room else []
    done = list(group.ended) if group.recursive and group.asked <= room else []
    return [*running, *failed, *done]
