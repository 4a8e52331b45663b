"""Gives instances to methods, many at once, and writes a row for each before anything else depends on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio

from rlm.errors import ConfigError, EngineUnavailable, RLMError

from .machine import Places
from .methods import Means, Method, Outcome, method
from .results import Job, Key, Results, Row, appending, line
from .scorers import score
from .task import Instance

RUNS: Final = "runs"


OnRow = Callable[[Row], None]
OnStart = Callable[[Key], None]


async def run_jobs(
    jobs: Iterable[Job],
    *,
    means: Means,
    results: Results,
    cap: Places,
    on_row: OnRow = lambda row: None,
    on_start: OnStart = lambda key: None,
) -> list[Row]:
    """Do what is not done yet; each row is on the disk before its place goes to another job.

    A failure becomes a row with an error, and the others run; a later run does it again. Without an engine no further job is
    begun. What makes one impossible from the start (ConfigError) is raised.

    Returns:
        The rows of all jobs, those of before included.
    """
    without_engine = anyio.Event()
    with appending(results.folder) as append:
        before = Results.load(results.folder).rows  # no other process adds to them from here on
        rows = {key: row for key, row in before.items() if not row.error}
        waiting = [job for job in jobs if job.key not in rows]
        methods = {job.key.method: method(job.key.method) for job in waiting}
        next_job = iter(waiting)

        async def work() -> None:
            for job in next_job:
                async with cap.slot():
                    if without_engine.is_set():
                        return
                    on_start(job.key)
                    row = await _do(job, methods[job.key.method], means, results)
                await anyio.to_thread.run_sync(append, line(row))
                rows[job.key] = row
                on_row(row)
                if row.error.startswith(EngineUnavailable.__name__):
                    without_engine.set()

        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(cap.most, len(waiting))):
                    group.start_soon(work)
        except* ConfigError as failed:
            raise failed.exceptions[0] from None
    return list(rows.values())


async def _do(job: Job, answer: Method, means: Means, results: Results) -> Row:
    key, folder = job.key, results.folder
    row = Row(
        task=key.task,
        length=key.length,
        seed=key.seed,
        index=key.index,
        method=key.method,
        settings=results.settings,
    )
    instance = await anyio.to_thread.run_sync(job.make)
    row = replace(row, digest=instance.digest, expected=instance.answers)
    place = folder / RUNS / _folder_of(key)
    began = time.perf_counter()
    try:
        outcome = await answer(instance, means, place)
    except ConfigError:
        raise
    except RLMError as error:
        return replace(row, error=f"{type(error).__name__}: {error}", seconds=time.perf_counter() - began)
    return _scored(row, instance, outcome, folder, seconds=time.perf_counter() - began)


def _scored(row: Row, instance: Instance, outcome: Outcome, folder: Path, *, seconds: float) -> Row:
    scored = score(instance, outcome.answer)
    used = outcome.usage
    return replace(
        row,
        answer=outcome.answer,
        read=scored.read,
        strict=scored.strict,
        lax=scored.lax,
        stop_reason=outcome.stop_reason,
        note=outcome.note,
        iterations=outcome.iterations,
        sub_calls=outcome.sub_calls,
        depth=outcome.depth,
        sandboxes=outcome.sandboxes,
        seconds=round(seconds, 4),
        calls=used.calls,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cost_usd=used.cost_usd,
        by_node={
            node: (each.calls, each.input_tokens, each.output_tokens, each.cost_usd)
            for node, each in outcome.by_node.items()
        },
        resumed=outcome.resumed,
        run_dir="" if outcome.run_dir is None else os.path.relpath(outcome.run_dir, folder),
    )


def _folder_of(key: Key) -> str:
    """Of the runs of one job: a resumed evaluation finds them there."""
    return f"{key.method.replace(':', '')}-{key.task.replace('/', '_')}-{key.length}-{key.seed}-{key.index}"
