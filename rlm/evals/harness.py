"""Runs the jobs of an evaluation concurrently. A job's row is on disk before anything else depends on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio

from rlm.errors import ConfigError, EngineUnavailable, JournalError, RLMError
from rlm.evals.methods.base import Method, MethodContext, MethodOutcome
from rlm.evals.methods.lookup import find_method
from rlm.store.runs import list_runs, usage_of_run
from rlm.types import Usage

from .results import Job, JobKey, ResultRow, Results, open_for_append, to_line
from .scorers import score
from .task import Instance

RUNS_FOLDER: Final = "runs"
RETRY_SUFFIX: Final = "-retry"  # suffix of a folder whose runs must not resume the earlier ones

OnRow = Callable[[ResultRow], None]
OnStart = Callable[[JobKey], None]


async def run_jobs(
    jobs: Iterable[Job],
    *,
    ctx: MethodContext,
    results: Results,
    max_concurrent: int,
    on_row: OnRow = lambda row: None,
    on_start: OnStart = lambda key: None,
    redo_failed_calls: bool = False,
) -> list[ResultRow]:
    """Run the jobs that have no final row yet.

    A failure becomes a row with an error, and the other jobs continue; a resumed evaluation repeats it. An instance that
    cannot be generated fails alone. Once the engine is unavailable, no further job starts.

    Args:
        jobs: the whole evaluation, finished jobs included.
        ctx: the models, limits and other settings of the methods.
        results: the folder that receives the rows.
        max_concurrent: jobs in progress at once.
        on_row: called after a row is on disk.
        on_start: called when a job starts.
        redo_failed_calls: also repeat answers whose sub-calls failed, from the start.

    Returns:
        The rows of these jobs, earlier ones included.

    Raises:
        ConfigError: a method cannot run with this configuration.
    """
    engine_lost = anyio.Event()
    with open_for_append(results.folder) as append:
        before = Results.load(results.folder).rows  # under the lock, so no other process adds rows from here on
        jobs = list(jobs)
        rows = final_rows(jobs, before, redo_failed_calls=redo_failed_calls)
        pending = [job for job in jobs if job.key not in rows]
        methods = {job.key.method: find_method(job.key.method) for job in pending}
        next_job = iter(pending)

        async def work() -> None:
            for job in next_job:
                if engine_lost.is_set():
                    return
                on_start(job.key)
                runs = _runs_folder(job.key, before.get(job.key), redo_failed_calls=redo_failed_calls)
                row = await _run(job, methods[job.key.method], ctx, results, results.folder / runs)
                await anyio.to_thread.run_sync(append, to_line(row))
                if row.error.startswith(EngineUnavailable.__name__):
                    engine_lost.set()
                rows[job.key] = row
                on_row(row)

        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(max_concurrent, len(pending))):
                    group.start_soon(work)
        except* ConfigError as failed:
            raise failed.exceptions[0] from None
    return list(rows.values())


def final_rows(
    jobs: Iterable[Job], before: Mapping[JobKey, ResultRow], *, redo_failed_calls: bool = False
) -> dict[JobKey, ResultRow]:
    """The earlier rows of these jobs that a resumed evaluation keeps."""
    earlier = ((job.key, before[job.key]) for job in jobs if job.key in before)
    return {key: row for key, row in earlier if row.is_final(redo_failed_calls=redo_failed_calls)}


async def _run(job: Job, method: Method, ctx: MethodContext, results: Results, runs: Path) -> ResultRow:
    key, folder = job.key, results.folder
    row = ResultRow(
        task=key.task,
        length=key.length,
        seed=key.seed,
        index=key.index,
        method=key.method,
        settings=results.settings,
    )
    try:
        instance = await anyio.to_thread.run_sync(job.make)
    except ConfigError as error:
        return replace(row, error=f"{type(error).__name__}: {error}")
    row = replace(row, digest=instance.digest, expected=instance.answers)
    started = time.perf_counter()
    try:
        outcome = await method(instance, ctx, runs)
        seconds = time.perf_counter() - started
        if outcome.run_dir is not None:
            row = replace(row, failed_calls=(await anyio.to_thread.run_sync(usage_of_run, outcome.run_dir)).failed)
    except ConfigError:
        raise
    except RLMError as error:
        row = replace(row, error=f"{type(error).__name__}: {error}", seconds=round(time.perf_counter() - started, 4))
        return await anyio.to_thread.run_sync(_with_usage_of_failure, row, runs, folder)
    return _with_outcome(row, instance, outcome, folder, seconds=seconds)


def _with_outcome(
    row: ResultRow, instance: Instance, outcome: MethodOutcome, folder: Path, *, seconds: float
) -> ResultRow:
    scores = score(instance, outcome.answer)
    return replace(
        row,
        answer=outcome.answer,
        read=scores.read,
        strict=scores.strict,
        lax=scores.lax,
        stop_reason=outcome.stop_reason,
        note=outcome.note,
        iterations=outcome.iterations,
        sub_calls=outcome.sub_calls,
        depth=outcome.depth,
        sandboxes=outcome.sandboxes,
        seconds=round(seconds, 4),
        **_usage_fields(outcome.usage, outcome.by_node),
        resumed=outcome.resumed,
        run_dir="" if outcome.run_dir is None else os.path.relpath(outcome.run_dir, folder),
    )


def _with_usage_of_failure(row: ResultRow, runs: Path, folder: Path) -> ResultRow:
    """Add the usage of the latest run, which is unknown if the method kept no record."""
    unknown = replace(row, calls=None, input_tokens=None, output_tokens=None, cost_usd=None)
    run = next(reversed(list(list_runs(runs))), None)
    if run is None:
        return unknown
    run_dir = os.path.relpath(run.directory, folder)
    try:
        usage = usage_of_run(run.directory)
    except JournalError:
        return replace(unknown, run_dir=run_dir)
    sub_calls = [node for node in usage.by_node if "." in node]
    return replace(
        row,
        **_usage_fields(sum(usage.by_node.values(), Usage()), usage.by_node),
        sub_calls=len(sub_calls),
        depth=max((node.count(".") for node in sub_calls), default=0),
        failed_calls=usage.failed,
        run_dir=run_dir,
    )


def _usage_fields(usage: Usage, by_node: Mapping[str, Usage]) -> dict[str, Any]:
    return {
        "calls": usage.calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": usage.cost_usd,
        "by_node": {
            node: (each.calls, each.input_tokens, each.output_tokens, each.cost_usd) for node, each in by_node.items()
        },
    }


def _runs_folder(key: JobKey, before: ResultRow | None, *, redo_failed_calls: bool) -> Path:
    """The folder of a job's runs, relative to that of the evaluation. A resumed job finds its earlier runs there.

    A journal serves failed calls as recorded, so a job that repeats them must not resume the earlier run.
    """
    if before is None or not before.run_dir:
        return Path(
            RUNS_FOLDER,
            f"{key.method.replace(':', '')}-{key.task.replace('/', '_')}-{key.length}-{key.seed}-{key.index}",
        )
    runs = Path(before.run_dir).parent
    return runs.with_name(runs.name + RETRY_SUFFIX) if redo_failed_calls and before.failed_calls else runs
