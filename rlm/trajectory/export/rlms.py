"""A run as a log of the reference implementation (package `rlms`): one line of metadata, then one line per turn. Pure.

A recursive call holds its own log, in the same form, as `metadata`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rlm.events import ModelReplied
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.trajectory import Trajectory, TrajectoryCell, TrajectoryNode, TrajectoryTurn

from .atif import iso

Data = dict[str, Any]


def log_lines(trajectory: Trajectory, details: RunDetails) -> Iterator[str]:
    """The lines of the log, each with its newline."""
    head = {"type": "metadata", "timestamp": iso(trajectory.started)} | _metadata(trajectory.root, details)
    for line in (head, *_iterations(trajectory, details, trajectory.root)):
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _metadata(node: TrajectoryNode, details: RunDetails) -> Data:
    turns = details.limits.get("max_iterations", max((turn.limit or 0 for turn in node.turns), default=0))
    return {
        "root_model": node.model,
        "max_depth": node.depth,
        "max_iterations": turns,
        "backend": "openai",
        "backend_kwargs": {"model_name": node.model},
        "environment_type": "docker",
        "environment_kwargs": {},
        "other_backends": None,
    }


def _iterations(trajectory: Trajectory, details: RunDetails, node: TrajectoryNode) -> Iterator[Data]:
    """One iteration for each turn with a reply. A turn that also summarized the conversation counts its last reply."""
    turns = [(turn, reply) for turn in node.turns if (reply := _reply(turn)) is not None]
    for number, (turn, reply) in enumerate(turns, 1):
        sent = details.sent_for(node.id, reply.text)
        cells = [entry for entry in turn.entries if isinstance(entry, TrajectoryCell)]
        ended = max(reply.ts, *(cell.ended or cell.started for cell in cells)) if cells else reply.ts
        iteration = {
            "type": "iteration",
            "iteration": number,
            "timestamp": iso(ended),
            "prompt": [{"role": message.role, "content": message.content} for message in sent]
            or [{"role": "user", "content": node.prompt or ""}],
            "response": reply.text,
            "code_blocks": [_code_block(trajectory, details, cell) for cell in cells],
            "final_answer": node.answer if number == len(turns) and node.ok else None,
            "iteration_time": ended - turn.started,
        }
        yield iteration | {"thinking": reply.thinking} if reply.thinking else iteration


def _reply(turn: TrajectoryTurn) -> ModelReplied | None:
    return next((entry for entry in reversed(turn.entries) if isinstance(entry, ModelReplied)), None)


def _code_block(trajectory: Trajectory, details: RunDetails, cell: TrajectoryCell) -> Data:
    result = cell.result
    return {
        "code": cell.code,
        "result": {
            "stdout": "" if result is None else result.stdout,
            "stderr": "" if result is None else result.stderr + result.error,
            "locals": {},
            "execution_time": 0.0 if cell.ended is None else cell.ended - cell.started,
            "rlm_calls": [_call(trajectory, details, trajectory.nodes[name]) for name in cell.calls],
            "final_answer": None if result is None else result.answer,
        },
    }


def _call(trajectory: Trajectory, details: RunDetails, node: TrajectoryNode) -> Data:
    summary: Data = {
        "total_calls": node.total_usage.calls,
        "total_input_tokens": node.total_usage.input_tokens,
        "total_output_tokens": node.total_usage.output_tokens,
    }
    if node.total_usage.cost_usd is not None:
        summary["total_cost"] = node.total_usage.cost_usd
    call: Data = {
        "root_model": node.model,
        "prompt": node.prompt or "",
        "response": node.answer or "" if node.ok else "",
        "usage_summary": {"model_usage_summaries": {node.model: summary}},
        "prompt_tokens": node.total_usage.input_tokens,  # the reference's viewer reads these two
        "completion_tokens": node.total_usage.output_tokens,
        "execution_time": 0.0 if node.ended is None else node.ended - node.started,
    }
    if not node.ok:
        call["error"] = node.answer or "No answer."
    if node.recursive:
        call["metadata"] = {
            "run_metadata": _metadata(node, details),
            "iterations": list(_iterations(trajectory, details, node)),
        }
    return call
