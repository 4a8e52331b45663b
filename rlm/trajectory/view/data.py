"""A run as the plain data that the viewer reads (`viewer/src/data.ts` has the same as types). Times count from its start."""

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
from rlm.trajectory.extras import Extras
from rlm.trajectory.trajectory import ROOT, Cell, Entry, Node, Record, Turn
from rlm.types import Usage

from .origin import origin_of, slices_of
from .texts import Ref, Texts

LABEL_CHARS: Final = 120  # of a prompt, in the rows of tree and timeline
CONTEXT_PART_CHARS: Final = 64 * 1024  # of the context in one text, so that an offset tells in which

Data = dict[str, object]


def run_data(record: Record, extras: Extras, texts: Texts) -> Data:
    """One run; its texts go to `texts`."""
    numbers = {name: number for number, name in enumerate(record.nodes)}
    make = _Maker(record=record, extras=extras, texts=texts, numbers=numbers)
    nodes = [make.node(node) for node in record.nodes.values()]
    context = make.context()
    return {
        "id": record.run_id,
        "query": make.put(record.query),
        "depth": record.depth,
        "models": record.models,
        "contextBytes": record.context_bytes,
        "began": record.started,
        "latest": make.at(record.latest),
        "ended": make.at(record.ended),
        "stop": record.stop_reason,
        "error": make.put(record.error),
        "resumed": [[make.at(again.ts), again.recorded, again.in_flight] for again in record.resumed],
        "limits": dict(extras.limits),
        "notes": make.notes(),
        "context": context,
        "nodes": nodes,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """Data of a run's parts; nodes are known to the viewer by their numbers."""

    record: Record
    extras: Extras
    texts: Texts
    numbers: dict[str, int]

    def put(self, text: str | None) -> Ref | None:
        return None if text is None else self.texts.put(text)

    def at(self, ts: float | None) -> float | None:
        """Seconds since the run began, to the microsecond."""
        return None if ts is None else round(ts - self.record.started, 6)

    def notes(self) -> list[str]:
        context = self.extras.context
        if context is not None and context.exhausted:
            return [
                *self.extras.notes,
                "Not all prompts were searched for slices of the context: that would take too long.",
            ]
        return list(self.extras.notes)

    def node(self, node: Node) -> Data:
        return {
            "id": node.id,
            "parent": -1 if node.parent is None else self.numbers[node.parent],
            "rlm": node.recursive,
            "label": (node.prompt or "")[:LABEL_CHARS],
            "model": node.model,
            "batch": node.batch,
            "depth": node.depth,
            "sandbox": node.sandbox,
            "contextType": node.context_type,
            "contextSize": node.context_size,
            "started": self.at(node.started),
            "ready": self.at(node.ready),
            "ended": self.at(node.ended),
            "ok": node.ok,
            "remembered": node.remembered,
            "stop": node.stop_reason,
            "own": usage_data(node.own),
            "total": usage_data(node.total),
            "prompt": self.put(node.prompt),
            "answer": self.put(node.answer),
            "turns": [self.turn(turn, node.id) for turn in node.turns],
            "origin": self.origin(node) if node.recursive else None,
        }

    def turn(self, turn: Turn, name: str) -> Data:
        return {
            "number": turn.number,
            "of": turn.of,
            "last": turn.last,
            "started": self.at(turn.started),
            "entries": [self.entry(entry, name) for entry in turn.entries],
        }

    def entry(self, entry: Entry, name: str) -> Data:
        match entry:
            case ModelReplied():
                return {
                    "kind": "reply",
                    "ended": self.at(entry.ts),
                    "seconds": entry.seconds,
                    "model": entry.model,
                    "finish": entry.finish_reason,
                    "replayed": entry.replayed,
                    "usage": usage_data(entry.usage),
                    "text": self.put(entry.text),
                    "prose": self.put(parse(entry.text).prose if entry.role == "root" else entry.text),
                    "sent": [
                        [message.role, self.put(message.content)] for message in self.extras.sent_for(name, entry.text)
                    ],
                }
            case ModelFailed():
                return {
                    "kind": "failure",
                    "ended": self.at(entry.ts),
                    "seconds": entry.seconds,
                    "model": entry.model,
                    "error": self.put(entry.error),
                }
            case SandboxLost():
                return {
                    "kind": "lost",
                    "ended": self.at(entry.ts),
                    "reason": self.put(entry.reason),
                    "sandbox": entry.replacement,
                    "restored": entry.restored,
                }
            case Compacted():
                return {
                    "kind": "compacted",
                    "ended": self.at(entry.ts),
                    "messages": entry.messages,
                    "summary": self.put(entry.summary),
                }
            case ReplayDiverged():
                return {"kind": "diverged", "ended": self.at(entry.ts), "call": entry.ordinal}
            case QuestionAsked():
                return {
                    "kind": "question",
                    "ended": self.at(entry.ts),
                    "query": self.put(entry.query),
                    "contextBytes": entry.context_bytes,
                }
            case LimitsRaised():
                return {"kind": "limits", "ended": self.at(entry.ts), "limits": dict(entry.limits)}
            case Cell():
                return self.cell(entry)

    def cell(self, cell: Cell) -> Data:
        data: Data = {
            "kind": "cell",
            "number": cell.number,
            "started": self.at(cell.started),
            "ended": self.at(cell.ended),
            "code": self.put(cell.code),
            "calls": [self.numbers[name] for name in cell.calls],
            "tools": [self.tool(use) for use in cell.tools],
            "outcome": None,
        }
        if (result := cell.result) is not None:
            data |= {
                "outcome": result.outcome,
                "rolledBack": result.rolled_back,
                "snapshot": result.snapshot,
                "own": result.seconds,
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
            "ended": self.at(use.ts),
            "seconds": use.seconds,
        }

    def origin(self, node: Node) -> Data | None:
        # The context that is known is the root's.
        origin = origin_of(self.record, node, self.extras.context if node.id == ROOT else None)
        if origin is None:
            return None
        finds = [
            {
                "piece": find.piece,
                "call": -1 if find.node is None else self.numbers[find.node],
                "cell": find.cell,
                "at": find.offset,
                "context": list(find.context),
            }
            for find in origin.finds
        ]
        return {"turn": origin.turn, "cell": origin.cell, "finds": finds}

    def context(self) -> Data | None:
        """The context in parts of so many characters, and the slices of it: call, start, end, offset in its prompt.

        A slice that was the context of a recursive call has the offset -1.
        """
        if (context := self.extras.context) is None:
            return None
        text = context.text
        slices = [
            [number, part.start, part.end, part.offset]
            for number, node in enumerate(self.record.nodes.values())
            if node.parent is not None
            for part in slices_of(node, context)
        ]
        parts = [self.put(text[at : at + CONTEXT_PART_CHARS]) for at in range(0, len(text), CONTEXT_PART_CHARS)]
        return {"chars": len(text), "partChars": CONTEXT_PART_CHARS, "parts": parts, "slices": slices}


def usage_data(usage: Usage) -> list[float | None]:
    """Calls, input tokens, output tokens, cached, reasoning, dollars."""
    return list(asdict(usage).values())
