"""A run as an ATIF trajectory (Agent Trajectory Interchange Format, RFC 0001 of Harbor), sub-agents nested. Pure.

Each RLM and each plain call is a trajectory, embedded in that of its caller and referred to by the cell that called. A step
of the agent is one reply of its model; its cells are calls of the tool `python`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from rlm.config import Limits
from rlm.events import Compacted, LimitsRaised, ModelFailed, ModelReplied, QuestionAsked, ReplayDiverged, SandboxLost
from rlm.loop.observation import describe
from rlm.trajectory.extras import Extras
from rlm.trajectory.trajectory import Cell, Entry, Node, Record
from rlm.types import Usage

SCHEMA_VERSION: Final = "ATIF-v1.7"  # the first in which trajectories may be nested; nothing newer is used

Data = dict[str, Any]

_PYTHON: Final[Data] = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Runs a cell in the REPL that holds the context.",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    },
}


def trajectory(record: Record, extras: Extras) -> Data:
    """The trajectory of the root RLM with all others inside."""
    root = _trajectory(record, extras, record.root)
    root["extra"] |= {"query": record.query, "error": record.error, "context_bytes": record.context_bytes}
    return root


def iso(ts: float) -> str:
    """A time as ISO 8601, in UTC."""
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds")


def _trajectory(record: Record, extras: Extras, node: Node) -> Data:
    agent: Data = {"name": "rlm" if node.recursive else "llm", "version": extras.version, "model_name": node.model}
    if node.recursive:
        agent |= {"tool_definitions": [_PYTHON], "extra": {"depth": node.depth, "sandbox": node.sandbox}}
    steps = _Steps(record, extras, node).steps
    data: Data = {
        "schema_version": SCHEMA_VERSION,
        "session_id": record.run_id,
        "trajectory_id": _id(record, node.id),
        "agent": agent,
        "steps": steps,
        "final_metrics": {
            "total_prompt_tokens": node.own.input_tokens,
            "total_completion_tokens": node.own.output_tokens,
            "total_cached_tokens": node.own.cached_tokens,
            **_dollars("total_cost_usd", node.own),
            "total_steps": len(steps),
            "extra": {
                "with_subagents": {
                    "calls": node.total.calls,
                    "prompt_tokens": node.total.input_tokens,
                    "completion_tokens": node.total.output_tokens,
                    **_dollars("cost_usd", node.total),
                }
            },
        },
        "extra": {"node": node.id, "ok": node.ok, "answer": node.answer, "stop_reason": node.stop_reason},
    }
    if node.children:
        data["subagent_trajectories"] = [_trajectory(record, extras, record.nodes[child]) for child in node.children]
    return data


class _Steps:
    """The steps of one node, in order; at least one."""

    def __init__(self, record: Record, extras: Extras, node: Node) -> None:
        self._record = record
        self._node = node
        found = extras.limits.get("max_output_chars", Limits().max_output_chars)
        self._shown_chars = found if isinstance(found, int) else None
        self.steps: list[Data] = []
        for message in extras.sent_first(node.id):
            self._add("system" if message.role == "system" else "user", message.content, node.started)
        if not self.steps:
            self._add("user", node.prompt or "", node.started)
        for turn in node.turns:
            for entry in turn.entries:
                self._entry(entry)

    def _entry(self, entry: Entry) -> None:
        match entry:
            case ModelReplied():
                step = self._add("agent", entry.text, entry.ts)
                step |= {"model_name": entry.model, "llm_call_count": 1, "metrics": _metrics(entry.usage)}
                step["extra"] = {"finish_reason": entry.finish_reason, "seconds": entry.seconds}
                if entry.replayed:
                    step["extra"]["replayed"] = True
            case ModelFailed():
                self._add("system", f"The request to {entry.model} failed: {entry.error}", entry.ts)
            case SandboxLost():
                kept = "its cells have run again" if entry.restored else "only `context` is kept"
                self._add("system", f"The sandbox was lost and replaced, {kept}: {entry.reason}", entry.ts)
            case Compacted():
                said = f"Of {entry.messages} messages, the older ones were replaced by this:\n{entry.summary}"
                self._add("system", said, entry.ts)
            case ReplayDiverged():
                self._add("system", f"Call {entry.ordinal} is not the recorded one: the network is asked.", entry.ts)
            case QuestionAsked():
                self._add("user", entry.query, entry.ts)
            case LimitsRaised():
                self._add("system", f"The run has other limits from now on: {dict(entry.limits)}", entry.ts)
            case Cell():
                self._cell(entry)

    def _cell(self, cell: Cell) -> None:
        if self.steps[-1]["source"] != "agent":  # a cell that no reply asked for, or one after a note of ours
            self._add("agent", "", cell.started)["llm_call_count"] = 0
        step = self.steps[-1]
        name = f"{self._node.id}/cell-{cell.number}"
        call = {"tool_call_id": name, "function_name": "python", "arguments": {"code": cell.code}}
        step.setdefault("tool_calls", []).append(call)
        result: Data = {"source_call_id": name}
        if cell.result is not None:
            result["content"] = describe(cell.result, limit=self._shown_chars)
            result["extra"] = {"outcome": cell.result.outcome, "seconds": cell.result.seconds}
            if cell.tools:
                result["extra"]["host_functions"] = [
                    {"name": use.tool, "arguments": use.arguments, "ok": use.ok, "seconds": use.seconds}
                    for use in cell.tools
                ]
        if cell.calls:
            result["subagent_trajectory_ref"] = [
                {"trajectory_id": _id(self._record, called), "session_id": self._record.run_id} for called in cell.calls
            ]
        step.setdefault("observation", {"results": []})["results"].append(result)

    def _add(self, source: str, message: str, ts: float) -> Data:
        step: Data = {"step_id": len(self.steps) + 1, "timestamp": iso(ts), "source": source, "message": message}
        self.steps.append(step)
        return step


def _id(record: Record, node: str) -> str:
    return f"{record.run_id}/{node}"


def _metrics(usage: Usage) -> Data:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        **_dollars("cost_usd", usage),
        "extra": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _dollars(name: str, usage: Usage) -> Data:
    """An unknown cost is left out."""
    return {} if usage.cost_usd is None else {name: usage.cost_usd}
