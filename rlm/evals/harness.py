"""Gives instances to methods, many at once, and writes a row for each before anything else depends on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio

from rlm.errors import ConfigError, EngineUnavailable, JournalError, RLMError
from rlm.evals.methods.base import Method, MethodContext, Outcome
from rlm.evals.methods.lookup import method
from rlm.store.runs import list_runs, usage_of_run
from rlm.types import Usage

from .concurrency import Slots
from .results import Job, Key, Results, Row, line, open_for_append
from .scorers import score
from .task import Instance

RUNS: Final = "runs"
RETRY_SUFFIX: Final = "-again"  # ends the name of the folder of runs that are not to go on with earlier ones


OnRow = Callable[[Row], None]
OnStart = Callable[[Key], None]


async def run_jobs(
    jobs: Iterable[Job],
    *,
    means: MethodContext,
    results: Results,
    cap: Slots,
    on_row: OnRow = lambda row: None,
    on_start: OnStart = lambda key: None,
    redo_failed_calls: bool = False,
) -> list[Row]:
    """Do what is not done yet; each row is on the disk before its place goes to another job.

    A failure becomes a row with an error, and the others run; a later run does it again. Without an engine no further job is
    begun. What makes a method impossible (ConfigError) is raised; an instance that cannot be made fails alone.
    With `redo_failed_calls`, what was answered without the replies of calls that had failed is done again, from the start.

    Returns:
        The rows of these jobs, those of before included.
    """
    without_engine = anyio.Event()
    with open_for_append(results.folder) as append:
        before = Results.load(results.folder).rows  # no other process adds to them from here on
        jobs = list(jobs)
        rows = standing(jobs, before, redo_failed_calls=redo_failed_calls)
        waiting = [job for job in jobs if job.key not in rows]
        methods = {job.key.method: method(job.key.method) for job in waiting}
        next_job = iter(waiting)

        async def work() -> None:
            for job in next_job:
                async with cap.slot():
                    if without_engine.is_set():
                        return
                    on_start(job.key)
                    runs = _runs_of(job.key, before.get(job.key), anew=redo_failed_calls)
                    row = await _do(job, methods[job.key.method], means, results, results.folder / runs)
                    await anyio.to_thread.run_sync(append, line(row))
                    if row.error.startswith(EngineUnavailable.__name__):
                        without_engine.set()
                rows[job.key] = row
                on_row(row)

        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(cap.most, len(waiting))):
                    group.start_soon(work)
        except* ConfigError as failed:
            raise failed.exceptions[0] from None
    return list(rows.values())


def standing(jobs: Iterable[Job], before: Mapping[Key, Row], *, redo_failed_calls: bool = False) -> dict[Key, Row]:
    """Of rows of before, those of these jobs that are not to be done again."""
    of_jobs = ((job.key, before[job.key]) for job in jobs if job.key in before)
    return {key: row for key, row in of_jobs if row.stands(redo_failed_calls=redo_failed_calls)}


async def _do(job: Job, answer: Method, means: MethodContext, results: Results, runs: Path) -> Row:
    key, folder = job.key, results.folder
    row = Row(
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
    began = time.perf_counter()
    try:
        outcome = await answer(instance, means, runs)
        seconds = time.perf_counter() - began
        if outcome.run_dir is not None:
            row = replace(row, failed_calls=(await anyio.to_thread.run_sync(usage_of_run, outcome.run_dir)).failed)
    except ConfigError:
        raise
    except RLMError as error:
        row = replace(row, error=f"{type(error).__name__}: {error}", seconds=round(time.perf_counter() - began, 4))
        return await anyio.to_thread.run_sync(_paid, row, runs, folder)
    return _scored(row, instance, outcome, folder, seconds=seconds)


def _scored(row: Row, instance: Instance, outcome: Outcome, folder: Path, *, seconds: float) -> Row:
    scored = score(instance, outcome.answer)
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
        **_sums(outcome.usage, outcome.by_node),
        resumed=outcome.resumed,
        run_dir="" if outcome.run_dir is None else os.path.relpath(outcome.run_dir, folder),
    )


def _paid(row: Row, runs: Path, folder: Path) -> Row:
    """The row of a failure, with what its latest run has used; unknown where it left no record."""
    unknown = replace(row, calls=None, input_tokens=None, output_tokens=None, cost_usd=None)
    run = next(reversed(list(list_runs(runs))), None)
    if run is None:
        return unknown
    run_dir = os.path.relpath(run.directory, folder)
    try:
        found = usage_of_run(run.directory)
    except JournalError:
        return replace(unknown, run_dir=run_dir)
    below = [node for node in found.by_node if "." in node]
    return replace(
        row,
        **_sums(sum(found.by_node.values(), Usage()), found.by_node),
        sub_calls=len(below),
        depth=max((node.count(".") for node in below), default=0),
        failed_calls=found.failed,
        run_dir=run_dir,
    )


def _sums(usage: Usage, by_node: Mapping[str, Usage]) -> dict[str, Any]:
    """What a row says of it."""
    return {
        "calls": usage.calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": usage.cost_usd,
        "by_node": {
            node: (each.calls, each.input_tokens, each.output_tokens, each.cost_usd) for node, each in by_node.items()
        },
    }


def _runs_of(key: Key, before: Row | None, *, anew: bool) -> Path:
    """The folder of a job's runs, in that of the evaluation: a resumed one finds them there.

    Its journal serves a run's failed calls as they were, so a run that is to have their replies does not go on with it.
    """
    if before is None or not before.run_dir:
        return Path(
            RUNS, f"{key.method.replace(':', '')}-{key.task.replace('/', '_')}-{key.length}-{key.seed}-{key.index}"
        )
    runs = Path(before.run_dir).parent
    return runs.with_name(runs.name + RETRY_SUFFIX) if anew and before.failed_calls else runs
