"""A run as an ATIF trajectory (Agent Trajectory Interchange Format, RFC 0001 of Harbor). Pure.

Each RLM and each plain call has its own trajectory, nested in its caller's and referenced by the calling cell. An
agent step is one reply of the model; its cells are calls of the tool `python`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from rlm.config import Limits
from rlm.events import Compacted, LimitsRaised, ModelFailed, ModelReplied, QuestionAsked, ReplayDiverged, SandboxLost
from rlm.loop.observation import describe
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.trajectory import Trajectory, TrajectoryCell, TrajectoryNode, TurnEntry
from rlm.types import Usage

SCHEMA_VERSION: Final = "ATIF-v1.7"  # the oldest version with nested trajectories, for the most readers

Data = dict[str, Any]

_PYTHON: Final[Data] = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Runs a cell in the REPL that holds the context.",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    },
}


def atif_trajectory(trajectory: Trajectory, details: RunDetails) -> Data:
    """The ATIF trajectory of the root RLM, with all others nested inside."""
    root = _node_trajectory(trajectory, details, trajectory.root)
    root["extra"] |= {
        "query": trajectory.query,
        "error": trajectory.error,
        "context_bytes": trajectory.context_bytes,
    }
    return root


def iso(ts: float) -> str:
    """Format seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds")


def _node_trajectory(trajectory: Trajectory, details: RunDetails, node: TrajectoryNode) -> Data:
    agent: Data = {"name": "rlm" if node.recursive else "llm", "version": details.version, "model_name": node.model}
    if node.recursive:
        agent |= {"tool_definitions": [_PYTHON], "extra": {"depth": node.depth, "sandbox": node.sandbox}}
    steps = _StepBuilder(trajectory, details, node).steps
    data: Data = {
        "schema_version": SCHEMA_VERSION,
        "session_id": trajectory.run_id,
        "trajectory_id": _id(trajectory, node.id),
        "agent": agent,
        "steps": steps,
        "final_metrics": {
            "total_prompt_tokens": node.own_usage.input_tokens,
            "total_completion_tokens": node.own_usage.output_tokens,
            "total_cached_tokens": node.own_usage.cached_tokens,
            **_dollars("total_cost_usd", node.own_usage),
            "total_steps": len(steps),
            "extra": {
                "with_subagents": {
                    "calls": node.total_usage.calls,
                    "prompt_tokens": node.total_usage.input_tokens,
                    "completion_tokens": node.total_usage.output_tokens,
                    **_dollars("cost_usd", node.total_usage),
                }
            },
        },
        "extra": {"node": node.id, "ok": node.ok, "answer": node.answer, "stop_reason": node.stop_reason},
    }
    if node.children:
        data["subagent_trajectories"] = [
            _node_trajectory(trajectory, details, trajectory.nodes[child]) for child in node.children
        ]
    return data


class _StepBuilder:
    """Builds the steps of one node, in order; at least one."""

    def __init__(self, trajectory: Trajectory, details: RunDetails, node: TrajectoryNode) -> None:
        self._trajectory = trajectory
        self._node = node
        limit = details.limits.get("max_output_chars", Limits().max_output_chars)
        self._max_output_chars = limit if isinstance(limit, int) else None
        self.steps: list[Data] = []
        for message in details.first_sent(node.id):
            self._add("system" if message.role == "system" else "user", message.content, node.started)
        if not self.steps:
            self._add("user", node.prompt or "", node.started)
        for turn in node.turns:
            for entry in turn.entries:
                self._entry(entry)

    def _entry(self, entry: TurnEntry) -> None:
        match entry:
            case ModelReplied():
                step = self._add("agent", entry.text, entry.ts)
                if entry.thinking:
                    step["reasoning_content"] = entry.thinking
                step |= {"model_name": entry.model, "llm_call_count": 1, "metrics": _metrics(entry.usage)}
                step["extra"] = {"finish_reason": entry.finish_reason, "seconds": entry.seconds}
                if entry.replayed:
                    step["extra"]["replayed"] = True
            case ModelFailed():
                self._add("system", f"The request to {entry.model} failed: {entry.error}", entry.ts)
            case SandboxLost():
                state = "its cells ran again" if entry.restored else "only `context` survived"
                self._add("system", f"The sandbox was lost and replaced; {state}: {entry.reason}", entry.ts)
            case Compacted():
                text = f"A summary replaced the older of {entry.messages} messages:\n{entry.summary}"
                self._add("system", text, entry.ts)
            case ReplayDiverged():
                self._add(
                    "system", f"Call {entry.ordinal} diverged from the recording; continuing with live calls.", entry.ts
                )
            case QuestionAsked():
                self._add("user", entry.query, entry.ts)
            case LimitsRaised():
                self._add("system", f"Limits raised: {dict(entry.limits)}", entry.ts)
            case TrajectoryCell():
                self._cell(entry)

    def _cell(self, cell: TrajectoryCell) -> None:
        if self.steps[-1]["source"] != "agent":  # replayed without a reply, or after a system step
            self._add("agent", "", cell.started)["llm_call_count"] = 0
        step = self.steps[-1]
        name = f"{self._node.id}/cell-{cell.number}"
        call = {"tool_call_id": name, "function_name": "python", "arguments": {"code": cell.code}}
        step.setdefault("tool_calls", []).append(call)
        result: Data = {"source_call_id": name}
        if cell.result is not None:
            result["content"] = describe(cell.result, limit=self._max_output_chars)
            result["extra"] = {"outcome": cell.result.outcome, "seconds": cell.result.seconds}
            if cell.tools:
                result["extra"]["host_functions"] = [
                    {"name": use.tool, "arguments": use.arguments, "ok": use.ok, "seconds": use.seconds}
                    for use in cell.tools
                ]
        if cell.calls:
            result["subagent_trajectory_ref"] = [
                {"trajectory_id": _id(self._trajectory, called), "session_id": self._trajectory.run_id}
                for called in cell.calls
            ]
        step.setdefault("observation", {"results": []})["results"].append(result)

    def _add(self, source: str, message: str, ts: float) -> Data:
        step: Data = {"step_id": len(self.steps) + 1, "timestamp": iso(ts), "source": source, "message": message}
        self.steps.append(step)
        return step


def _id(trajectory: Trajectory, node: str) -> str:
    return f"{trajectory.run_id}/{node}"


def _metrics(usage: Usage) -> Data:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        **_dollars("cost_usd", usage),
        "extra": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _dollars(name: str, usage: Usage) -> Data:
    """One metric, or none if the cost is unknown."""
    return {} if usage.cost_usd is None else {name: usage.cost_usd}
