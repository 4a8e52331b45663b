"""A run as the plain data of its page, whose types are in `viewer/src/data.ts`. Pure. Times count from the run's start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

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
from rlm.trajectory.trajectory import (
    ROOT,
    Trajectory,
    TrajectoryCell,
    TrajectoryNode,
    TrajectoryTurn,
    TurnEntry,
)
from rlm.types import Usage

from .origin import find_origin, slices_for
from .text_store import TextRef, TextStore

LABEL_CHARS: Final = 120  # start of a prompt in a row of the tree: more never fits
CONTEXT_PART_CHARS: Final = 64 * 1024  # parts have equal size, so that an offset determines its part

Data = dict[str, object]


def run_data(trajectory: Trajectory, details: RunDetails, texts: TextStore) -> Data:
    """The data of one run. Its texts go to `texts`, and the data refers to them."""
    indexes = {name: index for index, name in enumerate(trajectory.nodes)}
    builder = _DataBuilder(trajectory=trajectory, details=details, texts=texts, indexes=indexes)
    nodes = [builder.node(node) for node in trajectory.nodes.values()]
    return {
        "id": trajectory.run_id,
        "query": builder.put(trajectory.query),
        "depth": trajectory.depth,
        "models": trajectory.models,
        "contextBytes": trajectory.context_bytes,
        "started": trajectory.started,
        "latest": builder.seconds(trajectory.latest),
        "ended": builder.seconds(trajectory.ended),
        "stopReason": trajectory.stop_reason,
        "error": builder.put(trajectory.error),
        "resumptions": [
            [builder.seconds(resumption.ts), resumption.recorded, resumption.in_flight]
            for resumption in trajectory.resumptions
        ],
        "limits": dict(details.limits),
        "context": builder.context(),
        "notes": builder.notes(),
        "nodes": nodes,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _DataBuilder:
    """Builds the data of a run's parts. The data names nodes by index, as attacks can hide in their IDs."""

    trajectory: Trajectory
    details: RunDetails
    texts: TextStore
    indexes: dict[str, int]

    def put(self, text: str | None) -> TextRef | None:
        return None if text is None else self.texts.put(text)

    def seconds(self, ts: float | None) -> float | None:
        """Seconds since the start of the run, to the microsecond."""
        return None if ts is None else round(ts - self.trajectory.started, 6)

    def notes(self) -> list[str]:
        notes = list(self.details.notes)
        if self.details.context is not None and self.details.context.exhausted:
            notes.append("Some slices of the context may be missing: searching all prompts would take too long.")
        return notes

    def node(self, node: TrajectoryNode) -> Data:
        return {
            "id": node.id,
            "parent": -1 if node.parent is None else self.indexes[node.parent],
            "rlm": node.recursive,
            "label": (node.prompt or "")[:LABEL_CHARS],
            "model": node.model,
            "batch": node.batch,
            "depth": node.depth,
            "sandbox": node.sandbox,
            "contextType": node.context_type,
            "contextSize": node.context_size,
            "started": self.seconds(node.started),
            "ready": self.seconds(node.ready),
            "ended": self.seconds(node.ended),
            "ok": node.ok,
            "fromJournal": node.from_journal,
            "stopReason": node.stop_reason,
            "ownUsage": usage_data(node.own_usage),
            "totalUsage": usage_data(node.total_usage),
            "prompt": self.put(node.prompt),
            "answer": self.put(node.answer),
            "turns": [self.turn(turn, node.id) for turn in node.turns],
            "origin": self.origin(node) if node.recursive else None,
        }

    def turn(self, turn: TrajectoryTurn, node_id: str) -> Data:
        return {
            "number": turn.number,
            "limit": turn.limit,
            "isFinal": turn.is_final,
            "started": self.seconds(turn.started),
            "entries": [self.entry(entry, node_id) for entry in turn.entries],
        }

    def entry(self, entry: TurnEntry, node_id: str) -> Data:
        match entry:
            case ModelReplied():
                return {
                    "kind": "reply",
                    "ended": self.seconds(entry.ts),
                    "seconds": entry.seconds,
                    "model": entry.model,
                    "finish": entry.finish_reason,
                    "replayed": entry.replayed,
                    "usage": usage_data(entry.usage),
                    "thinking": self.put(entry.thinking or None),
                    "text": self.put(entry.text),
                    "prose": self.put(parse(entry.text).prose if entry.role == "root" else entry.text),
                    "sent": [
                        [message.role, self.put(message.content)]
                        for message in self.details.sent_for(node_id, entry.text)
                    ],
                }
            case ModelFailed():
                return {
                    "kind": "failure",
                    "ended": self.seconds(entry.ts),
                    "seconds": entry.seconds,
                    "model": entry.model,
                    "error": self.put(entry.error),
                }
            case SandboxLost():
                return {
                    "kind": "lost",
                    "ended": self.seconds(entry.ts),
                    "reason": self.put(entry.reason),
                    "sandbox": entry.replacement,
                    "restored": entry.restored,
                }
            case Compacted():
                return {
                    "kind": "compacted",
                    "ended": self.seconds(entry.ts),
                    "messages": entry.messages,
                    "summary": self.put(entry.summary),
                }
            case ReplayDiverged():
                return {"kind": "diverged", "ended": self.seconds(entry.ts), "call": entry.ordinal}
            case QuestionAsked():
                return {
                    "kind": "question",
                    "ended": self.seconds(entry.ts),
                    "query": self.put(entry.query),
                    "contextBytes": entry.context_bytes,
                }
            case LimitsRaised():
                return {"kind": "limits", "ended": self.seconds(entry.ts), "limits": dict(entry.limits)}
            case TrajectoryCell():
                return self.cell(entry)

    def cell(self, cell: TrajectoryCell) -> Data:
        data: Data = {
            "kind": "cell",
            "number": cell.number,
            "started": self.seconds(cell.started),
            "ended": self.seconds(cell.ended),
            "code": self.put(cell.code),
            "calls": [self.indexes[name] for name in cell.calls],
            "tools": [self.tool(use) for use in cell.tools],
            "outcome": None,
        }
        if (result := cell.result) is not None:
            data |= {
                "outcome": result.outcome,
                "rolledBack": result.rolled_back,
                "snapshot": result.snapshot,
                "ownSeconds": result.seconds,
                "stdout": self.put(result.stdout or None),
                "stderr": self.put(result.stderr or None),
                "cut": [result.stdout_cut, result.stderr_cut],
                "error": self.put(result.error or None),
                "answer": self.put(result.answer),
            }
        return data

    def tool(self, use: ToolUsed) -> Data:
        return {
            "name": use.tool,
            "arguments": self.put(use.arguments),
            "ok": use.ok,
            "ended": self.seconds(use.ts),
            "seconds": use.seconds,
        }

    def origin(self, node: TrajectoryNode) -> Data | None:
        # The stored context is the root's: other nodes have their own.
        origin = find_origin(self.trajectory, node, self.details.context if node.id == ROOT else None)
        if origin is None:
            return None
        sources = [
            {
                "piece": source.piece,
                "call": -1 if source.node is None else self.indexes[source.node],
                "cell": source.cell,
                "offset": source.offset,
                "context": list(source.context),
            }
            for source in origin.sources
        ]
        return {"turn": origin.turn, "cell": origin.cell, "sources": sources}

    def context(self) -> Data | None:
        """The context in equal parts, and its slices as [call, start, end, offset in the prompt].

        The offset is -1 for the context of a recursive call.
        """
        if (context := self.details.context) is None:
            return None
        text = context.text
        slices = [
            [index, part.start, part.end, part.offset]
            for index, node in enumerate(self.trajectory.nodes.values())
            if node.parent is not None
            for part in slices_for(node, context)
        ]
        parts = [self.put(text[at : at + CONTEXT_PART_CHARS]) for at in range(0, len(text), CONTEXT_PART_CHARS)]
        return {"chars": len(text), "partChars": CONTEXT_PART_CHARS, "parts": parts, "slices": slices}


def usage_data(usage: Usage) -> list[float | None]:
    """Calls, input, output, cached and reasoning tokens, dollars."""
    return list(asdict(usage).values())
