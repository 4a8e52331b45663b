"""Runs the trials of an evaluation, one row of results after the other."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio

from rlm.errors import ConfigError, EngineUnavailable, RLMError
from rlm.types import Completion, Context

from .niah import Trial, is_correct


class Completes(Protocol):
    """What a trial needs of an orchestrator."""

    async def acompletion(self, context: Context, query: str | None = None) -> Completion:
        """See `rlm.Orchestrator`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of `results.jsonl`: what a trial asked, gave, and used.

    `correct` is None where the harness failed, with the reason in `error`. `cost_usd` is None where a price is unknown.
    `run_dir` is relative to the file's folder.
    """

    trial: int
    task: str
    lines: int
    expected: str
    answer: str = ""
    correct: bool | None = None
    stop_reason: str = ""
    iterations: int = 0
    sub_calls: int = 0
    sandboxes: int = 0
    seconds: float = 0.0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    run_id: str = ""
    run_dir: str = ""
    error: str = ""


async def run_trials(
    trials: Iterable[Trial],
    *,
    orchestrator_for: Callable[[Trial], Completes],
    folder: Path,
    on_row: Callable[[Row], None],
) -> list[Row]:
    """Run one trial after the other; each row is written before the next one starts.

    A failed trial becomes a row with an error, and the next one runs; without an engine there is no next one. What makes
    all of them impossible from the start (ConfigError) is raised.
    """
    rows = []
    file = await anyio.open_file(folder / "results.jsonl", "x")
    async with file:
        for trial in trials:
            row = await _run(trial, orchestrator_for(trial), folder)
            rows.append(row)
            await file.write(json.dumps(dataclasses.asdict(row)) + "\n")
            await file.flush()
            on_row(row)
            if row.error.startswith(EngineUnavailable.__name__):
                break
    return rows


async def _run(trial: Trial, orchestrator: Completes, folder: Path) -> Row:
    row = Row(
        trial=trial.number,
        task="needle" if len(trial.expected) == 1 else "facts",
        lines=trial.context.count("\n") + 1,
        expected=", ".join(f"{name}={value}" if name else value for name, value in trial.expected.items()),
    )
    try:
        done = await orchestrator.acompletion(trial.context, trial.query)
    except ConfigError:
        raise
    except RLMError as error:
        return dataclasses.replace(row, error=f"{type(error).__name__}: {error}")
    return dataclasses.replace(
        row,
        answer=done.answer,
        correct=is_correct(done.answer, trial.expected),
        stop_reason=done.stop_reason,
        iterations=done.iterations,
        sub_calls=done.sub_calls,
        sandboxes=done.sandboxes,
        seconds=done.seconds,
        calls=done.usage.calls,
        input_tokens=done.usage.input_tokens,
        output_tokens=done.usage.output_tokens,
        cost_usd=done.cost,
        run_id=done.run_id,
        run_dir=os.path.relpath(done.run_dir, folder),  # noqa: ASYNC240 - no I/O where the paths are absolute or alike
    )
