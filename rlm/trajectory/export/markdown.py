"""A run as one Markdown file, to be read on a forge or in a chat. Pure.

Models, sandboxes and contexts chose the texts: each stands between fences or marks that it cannot close, its control
characters as escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from rlm._util.text import clip, fenced, printable
from rlm.events import (
    Compacted,
    LimitsRaised,
    ModelFailed,
    ModelReplied,
    QuestionAsked,
    ReplayDiverged,
    SandboxLost,
    ToolUsed,
)
from rlm.loop.reply import parse
from rlm.trajectory.extras import Extras
from rlm.trajectory.trajectory import Cell, Entry, Node, Record
from rlm.types import Usage

from .atif import iso

MAX_TEXT_CHARS: Final = 10_000  # of one text: a file of a megabyte is not shown by forges
MAX_LINE_CHARS: Final = 160  # of a text that stands in a line
MAX_CALLS: Final = 50  # of one cell that are listed

_TICKS: Final = re.compile("`+")


def markdown(record: Record, extras: Extras) -> str:
    """The whole file."""
    return "\n".join(_lines(record, extras)) + "\n"


def inline(text: str) -> str:
    """Text as code in a line, from which it cannot break out: one line, between more marks than it has."""
    line = " ".join(printable(text).split())
    if not line:
        return "(nothing)"
    line = line if len(line) <= MAX_LINE_CHARS else line[: MAX_LINE_CHARS - 1] + "…"
    marks = "`" * (1 + max((len(run) for run in _TICKS.findall(line)), default=0))
    pad = " " if "`" in (line[0], line[-1]) else ""
    return f"{marks}{pad}{line}{pad}{marks}"


def block(text: str, language: str = "text") -> str:
    """Text as a block, from which it cannot break out."""
    return fenced(printable(clip(text, MAX_TEXT_CHARS)), language)


def _lines(record: Record, extras: Extras) -> Iterator[str]:
    root = record.root
    models = ", ".join(f"level {level}: {inline(name)}" for level, name in record.models.items())
    took = f"{(record.ended or record.latest) - record.started:.1f} s"
    yield f"# Run {inline(record.run_id)}\n"
    yield f"- {_state(record)}"
    yield f"- began {iso(record.started)}, {took}, rlm {inline(extras.version)}"
    yield f"- depth {record.depth}, models: {models or 'not known'}"
    yield f"- context: {record.context_bytes:,} bytes"
    yield f"- nodes: {len(record.nodes):,}, {_used(root.total)}"
    for again in record.resumed:
        yield f"- resumed {iso(again.ts)}: {again.recorded:,} calls recorded, {again.in_flight:,} without an answer"
    yield from (f"- {inline(note)}" for note in extras.notes)
    yield f"\n## Question\n\n{block(record.query or '(in the context)')}"
    if root.answer is not None:
        yield f"\n## Answer\n\n{block(root.answer)}"
    for node in record.nodes.values():
        if node.recursive:
            yield from _rlm(record, node)


def _state(record: Record) -> str:
    if record.error is not None:
        return f"failed: {inline(record.error)}"
    if record.ended is None:
        return "not ended"
    return f"ended: {inline(record.stop_reason or 'unknown')}"


def _rlm(record: Record, node: Node) -> Iterator[str]:
    yield f"\n## RLM {inline(node.id)}\n"
    yield f"- {inline(node.model)}, {_used(node.own)} of its own; {_used(node.total)} in all"
    yield f"- context: {inline(node.context_type)} of {node.context_size or 0:,}"
    if node.remembered:
        yield "- answered from the journal: its RLM was not run again"
    if node.parent is not None:
        yield f"\nAsked:\n\n{block(node.prompt or '')}"
        if node.answer is not None:
            yield f"\n{'Answered' if node.ok else 'Not answered'}:\n\n{block(node.answer)}"
    for turn in node.turns:
        of = "" if turn.of is None else f" of {turn.of}"
        yield "\n### Last turn" if turn.last else f"\n### Turn {turn.number}{of}"
        for entry in turn.entries:
            yield from _entry(record, entry)


def _entry(record: Record, entry: Entry) -> Iterator[str]:
    match entry:
        case ModelReplied():
            source = ", from the journal" if entry.replayed else ""
            yield f"\n{inline(entry.model)}, {entry.seconds:.1f} s, {_tokens(entry.usage)}{source}:"
            if prose := parse(entry.text).prose:
                yield f"\n{block(prose)}"
        case ModelFailed():
            yield f"\n**The request to {inline(entry.model)} failed:**\n\n{block(entry.error)}"
        case SandboxLost():
            kept = "its cells have run again" if entry.restored else "only the context is kept"
            yield f"\n**The sandbox was lost and replaced, {kept}:**\n\n{block(entry.reason)}"
        case Compacted():
            yield f"\n**Of {entry.messages} messages, the older ones were replaced by this:**\n\n{block(entry.summary)}"
        case ReplayDiverged():
            yield f"\n**Call {entry.ordinal} is not the recorded one: from here on the network is asked.**"
        case QuestionAsked():
            yield f"\n**A further question:**\n\n{block(entry.query)}"
        case LimitsRaised():
            limits = ", ".join(f"{name}={value}" for name, value in entry.limits.items())
            yield f"\n**Limits raised: {inline(limits)}**"
        case Cell():
            yield from _cell(record, entry)


def _cell(record: Record, cell: Cell) -> Iterator[str]:
    result = cell.result
    state = "not ended" if result is None else f"{result.outcome}, {result.seconds:.2f} s of its own"
    undone = ", rolled back" if result is not None and result.rolled_back else ""
    yield f"\n#### Cell {cell.number}: {state}{undone}\n\n{block(cell.code, 'python')}"
    if cell.calls:
        yield "\nCalls:\n"
        yield from (_call(record.nodes[name]) for name in cell.calls[:MAX_CALLS])
        if len(cell.calls) > MAX_CALLS:
            yield f"- and {len(cell.calls) - MAX_CALLS:,} more"
    if cell.tools:
        yield "\nFunctions of the host:\n"
        yield from (_tool(use) for use in cell.tools[:MAX_CALLS])
        if len(cell.tools) > MAX_CALLS:
            yield f"- and {len(cell.tools) - MAX_CALLS:,} more"
    if result is None:
        return
    for title, text in (("Output", result.stdout), ("Standard error", result.stderr), ("Error", result.error)):
        if text:
            yield f"\n{title}:\n\n{block(text)}"
    if result.answer is not None:
        yield "\nThis cell gave the answer."


def _call(node: Node) -> str:
    kind = "RLM " if node.recursive else ""
    state = {True: "answered", False: "not answered", None: "not ended"}[node.ok]
    took = "" if node.ended is None else f" in {node.ended - node.started:.1f} s"
    return f"- {kind}{inline(node.id)} {state}{took}: {inline(node.prompt or '')} → {inline(node.answer or '')}"


def _tool(use: ToolUsed) -> str:
    return f"- {inline(use.tool + use.arguments)} {'ended well' if use.ok else 'failed'}, {use.seconds:.2f} s"


def _used(usage: Usage) -> str:
    calls = "1 model call" if usage.calls == 1 else f"{usage.calls:,} model calls"
    return f"{calls}, {_tokens(usage)}"


def _tokens(usage: Usage) -> str:
    cost = "cost unknown" if usage.cost_usd is None else f"${usage.cost_usd:.4g}"
    return f"{usage.input_tokens:,} + {usage.output_tokens:,} tokens, {cost}"
