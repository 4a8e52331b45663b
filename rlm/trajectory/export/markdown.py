"""A run as one Markdown file, to read on a code forge or in a chat. Pure.

All texts are untrusted: each is inside a fence or code span that it cannot close, with control characters escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rlm._util.text import clip, dollars, fenced, longest_tick_run, printable, quantity, shorten
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
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.trajectory import Trajectory, TrajectoryCell, TrajectoryNode, TurnEntry
from rlm.types import Usage

from .atif import iso

MAX_TEXT_CHARS: Final = 10_000  # limit of each text: code forges do not render files of a megabyte
MAX_LINE_CHARS: Final = 160  # limit of a text inside a line
MAX_ITEMS: Final = 50  # calls listed per cell; `rlm view` shows all


def markdown(trajectory: Trajectory, details: RunDetails) -> str:
    """Render a run as Markdown."""
    return "\n".join(_lines(trajectory, details)) + "\n"


def inline(text: str) -> str:
    """Text as a code span that it cannot close: one line, between more backticks than it contains."""
    line = " ".join(printable(text).split())
    if not line:
        return "(empty)"
    line = shorten(line, MAX_LINE_CHARS)
    marks = "`" * (1 + longest_tick_run(line))
    pad = " " if "`" in (line[0], line[-1]) else ""
    return f"{marks}{pad}{line}{pad}{marks}"


def block(text: str, language: str = "text") -> str:
    """Text as a fenced block that it cannot close."""
    return fenced(printable(clip(text, MAX_TEXT_CHARS)), language)


def _lines(trajectory: Trajectory, details: RunDetails) -> Iterator[str]:
    root = trajectory.root
    models = ", ".join(f"{inline(name)} (level {level})" for level, name in trajectory.models.items())
    seconds = (trajectory.ended or trajectory.latest) - trajectory.started
    yield f"# Run {inline(trajectory.run_id)}\n"
    yield f"- Status: {_status(trajectory)}"
    yield f"- Started: {iso(trajectory.started)}"
    yield f"- Time: {seconds:.1f} s"
    yield f"- Models: {models or 'unknown'}"
    yield f"- Depth: {trajectory.depth}"
    yield f"- Context: {trajectory.context_bytes:,} bytes"
    yield f"- Nodes: {len(trajectory.nodes):,}"
    yield f"- Usage: {_usage(root.total_usage)}"
    yield f"- rlm version: {inline(details.version)}"
    for resumption in trajectory.resumptions:
        calls = f"{resumption.recorded:,} calls recorded, {resumption.in_flight:,} in flight"
        yield f"- Resumed: {iso(resumption.ts)}, {calls}"
    yield from (f"- Note: {inline(note)}" for note in details.notes)
    yield f"\n## Question\n\n{block(trajectory.query or '(in the context)')}"
    if root.answer is not None:
        yield f"\n## Answer\n\n{block(root.answer) if root.answer else 'The answer is empty.'}"
    for node in trajectory.nodes.values():
        if node.recursive:
            yield from _rlm(trajectory, node)


def _status(trajectory: Trajectory) -> str:
    if trajectory.error is not None:
        return f"failed: {inline(trajectory.error)}"
    if trajectory.ended is None:
        return "unfinished"
    if trajectory.stop_reason == "final":
        return "answered"
    return f"stopped ({inline(trajectory.stop_reason or 'unknown')})"


def _rlm(trajectory: Trajectory, node: TrajectoryNode) -> Iterator[str]:
    yield f"\n## RLM {inline(node.id)}\n"
    yield f"- Model: {inline(node.model)}"
    yield f"- Usage: {_usage(node.own_usage)}"
    if node.children:
        yield f"- Usage including sub-calls: {_usage(node.total_usage)}"
    yield f"- Context: {inline(node.context_type)} of length {node.context_size or 0:,}"
    if node.from_journal:
        yield "- Answered from the journal; did not run again"
    if node.parent is not None:
        yield f"\nPrompt:\n\n{block(node.prompt or '')}"
        if node.answer is not None:
            yield f"\n{'Answer' if node.ok else 'Failed'}:\n\n{block(node.answer)}"
    for turn in node.turns:
        of = "" if turn.limit is None else f" of {turn.limit}"
        yield "\n### Final turn" if turn.is_final else f"\n### Turn {turn.number}{of}"
        if not turn.entries:
            yield "\nNo reply."
        for entry in turn.entries:
            yield from _entry(trajectory, entry)


def _entry(trajectory: Trajectory, entry: TurnEntry) -> Iterator[str]:
    match entry:
        case ModelReplied():
            source = ", from the journal" if entry.replayed else ""
            yield f"\nReply of {inline(entry.model)} ({entry.seconds:.1f} s, {_tokens(entry.usage)}{source})"
            if entry.thinking:
                title = f"Thinking ({quantity(len(entry.thinking), 'character')})"
                yield f"\n<details><summary>{title}</summary>\n\n{block(entry.thinking)}\n\n</details>"
            if prose := parse(entry.text).prose:
                yield f"\n{block(prose)}"
        case ModelFailed():
            yield f"\n**The request to {inline(entry.model)} failed:**\n\n{block(entry.error)}"
        case SandboxLost():
            state = "its cells ran again" if entry.restored else "only the context survived"
            yield f"\n**The sandbox was lost and replaced; {state}:**\n\n{block(entry.reason)}"
        case Compacted():
            yield f"\n**A summary replaced the older of {entry.messages} messages:**\n\n{block(entry.summary)}"
        case ReplayDiverged():
            yield f"\n**Call {entry.ordinal} diverged from the recording; continuing with live calls.**"
        case QuestionAsked():
            yield f"\n**Further question:**\n\n{block(entry.query)}"
        case LimitsRaised():
            limits = ", ".join(f"{name}={value}" for name, value in entry.limits.items())
            yield f"\n**Limits raised: {inline(limits)}**"
        case TrajectoryCell():
            yield from _cell(trajectory, entry)


def _cell(trajectory: Trajectory, cell: TrajectoryCell) -> Iterator[str]:
    result = cell.result
    outcome = "unfinished" if result is None else f"{result.outcome}, {result.seconds:.2f} s excluding waits"
    rolled_back = ", rolled back" if result is not None and result.rolled_back else ""
    yield f"\n#### Cell {cell.number}: {outcome}{rolled_back}\n\n{block(cell.code, 'python')}"
    yield from _list("Calls", [_call(trajectory.nodes[name]) for name in cell.calls])
    yield from _list("Host functions", [_tool(use) for use in cell.tools])
    if result is None:
        return
    for title, text in (("Output", result.stdout), ("Standard error", result.stderr), ("Error", result.error)):
        if text:
            yield f"\n{title}:\n\n{block(text)}"
    if result.answer is not None:
        yield "\nThis cell gave the answer."


def _list(title: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield f"\n{title}:\n"
        yield from items[:MAX_ITEMS]
    if len(items) > MAX_ITEMS:
        yield f"- and {len(items) - MAX_ITEMS:,} more"


def _call(node: TrajectoryNode) -> str:
    kind = "RLM " if node.recursive else ""
    state = {True: "answered", False: "failed", None: "unfinished"}[node.ok]
    time = "" if node.ended is None else f" in {node.ended - node.started:.1f} s"
    return f"- {kind}{inline(node.id)} {state}{time}: {inline(node.prompt or '')} → {inline(node.answer or '')}"


def _tool(use: ToolUsed) -> str:
    return f"- {inline(use.tool + use.arguments)} {'succeeded' if use.ok else 'failed'} in {use.seconds:.2f} s"


def _usage(usage: Usage) -> str:
    return f"{quantity(usage.calls, 'model call')}, {_tokens(usage)}"


def _tokens(usage: Usage) -> str:
    cost = "cost unknown" if usage.cost_usd is None else dollars(usage.cost_usd)
    return f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, {cost}"
