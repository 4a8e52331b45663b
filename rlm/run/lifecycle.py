"""The ways into a run: a new one, one that goes on from its directory, or a finished one once more without any model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from rlm.config import RAISABLE, Limits
from rlm.errors import ConfigError, LimitExceeded
from rlm.events import RunResumed, RunStarted
from rlm.loop.control import RunControl, raised_limits
from rlm.models.base import Model
from rlm.models.openai import OpenAIModel
from rlm.store.directory import new_directory
from rlm.store.entries import FILE_NAME as JOURNAL
from rlm.store.journal import Journal
from rlm.store.lock import run_lock
from rlm.store.record import ModelRecord, RunRecord
from rlm.store.replay import Replay
from rlm.types import Completion, StopPoint, Usage

from .active import ActiveRun, RunQuestion, tools_of
from .options import Options


@asynccontextmanager
async def start_run(
    *,
    options: Options,
    models: Mapping[int, Model],
    question: RunQuestion,
    control: RunControl | None = None,
    numbered: bool = False,
) -> AsyncIterator[ActiveRun]:
    """A new run.

    Args:
        options: how it is made.
        models: one for each level from 0 to max(1, depth).
        question: that will be asked first.
        control: what may be changed while it is under way.
        numbered: further questions may come, so the contexts are numbered.

    Raises what `Orchestrator.completion` says.
    """
    # Refuse what cannot be before there is a directory.
    assert question.context is not None, "the first question comes with a context"
    require_known_prices(options, models)
    tools_of(options)
    run_id, directory = new_directory(options.run_root)
    record = RunRecord(
        run_id=run_id,
        state="running",
        query=question.query,
        depth=options.depth,
        models={level: _model_record(model, options) for level, model in models.items()},
        limits=options.limits,
        sandbox=options.sandbox,
        prices=options.prices,
    )
    names = {level: model.name for level, model in models.items()}
    start = RunStarted(query=question.query, depth=options.depth, models=names, context_bytes=question.context.size)
    with run_lock(directory):
        record.save(directory)
        with Journal(directory / JOURNAL) as journal:
            control = control or RunControl(options.limits)
            async with ActiveRun(
                options, models, record, directory, Replay(journal), start, control, numbered=numbered
            ) as tree:
                yield tree


@asynccontextmanager
async def resume_run(
    *,
    options: Options,
    models: Mapping[int, Model],
    record: RunRecord,
    directory: Path,
    control: RunControl | None = None,
    undo: StopPoint | None = None,
    numbered: bool = False,
) -> AsyncIterator[ActiveRun]:
    """A run that was interrupted, or one that is asked a further question: what its journal holds is not asked again.

    `undo` is where a limit ended the work on its last question, if that is to go on.
    """
    require_known_prices(options, models)
    ended = record.state == "finished" and undo is None
    with run_lock(directory), Journal(directory / JOURNAL, mode="open") as journal:
        replay = Replay(journal, ended=ended)
        record.ensure_unchanged(directory)
        if undo is not None:  # while the record has the stop: a start that fails from here on is tried again
            await replay.rewind_to(undo.requests)
        taken = record.take_over(
            directory,
            raised={**record.raised, **raised_limits(options.limits, record.limits_now)},
            prices=options.prices,
            stops={number: stop for number, stop in record.stops.items() if stop is not undo},
            answered=record.answered if undo is None else len(record.further),
        )
        start = RunResumed(recorded=replay.recorded, in_flight=replay.in_flight)
        control = control or RunControl(options.limits)
        numbered = numbered or bool(record.further)
        async with ActiveRun(options, models, taken, directory, replay, start, control, numbered=numbered) as tree:
            yield tree


@asynccontextmanager
async def replay_run(
    *, options: Options, models: Mapping[int, Model], record: RunRecord, directory: Path
) -> AsyncIterator[ActiveRun]:
    """A finished run once more, without any model. Its directory stays as it is but for the replay's own, inside."""
    options = replace(options, limits=replace(options.limits, max_seconds=None))
    _, place = new_directory(directory / "replays")
    with Journal(directory / JOURNAL, mode="read") as journal:
        replay = Replay(journal)
        start = RunResumed(recorded=replay.recorded, in_flight=replay.in_flight)
        control, numbered = RunControl(options.limits), bool(record.further)
        async with ActiveRun(options, models, record, place, replay, start, control, numbered=numbered) as tree:
            yield tree


def resumable_stop(record: RunRecord, limits: Limits, directory: Path) -> StopPoint | None:
    """Where a limit ended a run that goes on now, as the limit has been raised; None for a run that had no end.

    Raises:
        ConfigError: it is finished.
    """
    if record.state != "finished":
        return None
    limit = record.stop_reason if record.stop_reason in RAISABLE else None
    stop = record.stops.get(len(record.further))
    if limit is not None and stop is not None and limit in raised_limits(limits, record.limits_now):
        return stop
    ended_by = "" if limit is None or stop is None else f"; {limit} ended it: with a higher one it goes on"
    raise ConfigError(
        f"The run {record.run_id} is finished: its answer is in {directory / 'answer.txt'}, and `rlm replay` goes through "
        f"it again{ended_by}."
    )


def raise_if_limited(completion: Completion, options: Options) -> Completion:
    """The completion; LimitExceeded where a limit ended it and the caller asked for an error."""
    if options.on_limit == "raise" and completion.stop_reason != "final":
        raise LimitExceeded(f"The run was stopped by a limit: {completion.stop_reason}.", partial=completion)
    return completion


def require_known_prices(options: Options, models: Mapping[int, Model]) -> None:
    """A limit on dollars holds only where every price is known."""
    if options.limits.max_cost_usd is None:
        return
    for model in models.values():
        if model.name not in options.prices and model.cost(Usage()) is None:
            raise ConfigError(
                f"max_cost_usd is set, and the price of {model.name} is not known: give it in dollars per million tokens, "
                f"as in Orchestrator(prices={{{model.name!r}: Price(input=1.25, output=10)}}) or, for the command line, "
                "in rlm.toml, or leave max_cost_usd out."
            )


def _model_record(model: Model, options: Options) -> ModelRecord:
    """A model that was given by its name can be made again."""
    given = [options.model, options.sub_model, *options.level_models.values()]
    by_name = not any(model is each for each in given)
    server = model.base_url if by_name and isinstance(model, OpenAIModel) else None
    return ModelRecord(name=model.name, server=server, context_window=model.context_window)
