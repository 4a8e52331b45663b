"""A run as the log of the reference implementation (package `rlms`): a line of metadata, then one for each turn of the root.

A call that was an RLM has its own log, in the same form, as `metadata`. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rlm.events import ModelReplied
from rlm.trajectory.extras import Extras
from rlm.trajectory.trajectory import Cell, Node, Record, Turn

from .atif import iso

Data = dict[str, Any]


def log_lines(record: Record, extras: Extras) -> Iterator[str]:
    """The lines of the log, each with its end."""
    head = {"type": "metadata", "timestamp": iso(record.started)} | _metadata(record.root, extras)
    for line in (head, *_iterations(record, extras, record.root)):
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _metadata(node: Node, extras: Extras) -> Data:
    turns = extras.limits.get("max_iterations", max((turn.of or 0 for turn in node.turns), default=0))
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


def _iterations(record: Record, extras: Extras, node: Node) -> Iterator[Data]:
    """The turns that had a reply; of one in which the conversation was made shorter too, the latest."""
    turns = [(turn, reply) for turn in node.turns if (reply := _reply(turn)) is not None]
    for number, (turn, reply) in enumerate(turns, 1):
        sent = extras.sent_for(node.id, reply.text)
        cells = [entry for entry in turn.entries if isinstance(entry, Cell)]
        ended = max(reply.ts, *(cell.ended or cell.started for cell in cells)) if cells else reply.ts
        yield {
            "type": "iteration",
            "iteration": number,
            "timestamp": iso(ended),
            "prompt": [{"role": message.role, "content": message.content} for message in sent]
            or [{"role": "user", "content": node.prompt or ""}],
            "response": reply.text,
            "code_blocks": [_code_block(record, extras, cell) for cell in cells],
            "final_answer": node.answer if number == len(turns) and node.ok else None,
            "iteration_time": ended - turn.started,
        }


def _reply(turn: Turn) -> ModelReplied | None:
    return next((entry for entry in reversed(turn.entries) if isinstance(entry, ModelReplied)), None)


def _code_block(record: Record, extras: Extras, cell: Cell) -> Data:
    result = cell.result
    return {
        "code": cell.code,
        "result": {
            "stdout": "" if result is None else result.stdout,
            "stderr": "" if result is None else result.stderr + result.error,
            "locals": {},
            "execution_time": 0.0 if cell.ended is None else cell.ended - cell.started,
            "rlm_calls": [_call(record, extras, record.nodes[name]) for name in cell.calls],
            "final_answer": None if result is None else result.answer,
        },
    }


def _call(record: Record, extras: Extras, node: Node) -> Data:
    summary: Data = {
        "total_calls": node.total.calls,
        "total_input_tokens": node.total.input_tokens,
        "total_output_tokens": node.total.output_tokens,
    }
    if node.total.cost_usd is not None:
        summary["total_cost"] = node.total.cost_usd
    call: Data = {
        "root_model": node.model,
        "prompt": node.prompt or "",
        "response": node.answer or "" if node.ok else "",
        "usage_summary": {"model_usage_summaries": {node.model: summary}},
        "prompt_tokens": node.total.input_tokens,  # these two are what the reference's viewer reads
        "completion_tokens": node.total.output_tokens,
        "execution_time": 0.0 if node.ended is None else node.ended - node.started,
    }
    if not node.ok:
        call["error"] = node.answer or "There is no answer."
    if node.recursive:
        call["metadata"] = {
            "run_metadata": _metadata(node, extras),
            "iterations": list(_iterations(record, extras, node)),
        }
    return call
