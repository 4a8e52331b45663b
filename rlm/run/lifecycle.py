"""Starts a new run, resumes a run from its directory, or replays a finished run without a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio.to_thread

from rlm.config import RAISABLE_LIMITS, Limits
from rlm.errors import ConfigError, LimitExceeded
from rlm.events import RunResumed, RunStarted
from rlm.loop.control import RunControl, raised_limits
from rlm.models.base import Model
from rlm.models.openai import OpenAIModel
from rlm.models.scripted import ScriptedModel
from rlm.sandbox.values import Value
from rlm.store.contexts import stored_contexts
from rlm.store.directory import default_root, find, new_directory
from rlm.store.entries import FILE_NAME as JOURNAL
from rlm.store.journal import Journal
from rlm.store.lock import ensure_unlocked, run_lock
from rlm.store.record import ModelRecord, RunRecord
from rlm.store.record_writer import RecordWriter
from rlm.store.replay import Replay
from rlm.types import Completion, StopPoint, Usage

from .active import ActiveRun, RunQuestion, tools_of
from .clients import Clients, find_windows
from .options import Options, OptionsDict


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run on disk, with the options to reopen it: its original options, and overrides."""

    directory: Path
    record: RunRecord
    options: Options

    @classmethod
    def load(cls, run: str | Path, overrides: OptionsDict) -> StoredRun:
        """Load a run by its ID or directory.

        Raises:
            ConfigError: the run does not exist, or `overrides` changes a fixed option.
            JournalError: its record is damaged.
        """
        directory = find(run, Options().changed(overrides).run_root or default_root())
        record = RunRecord.load(directory)
        limits = overrides.get("limits", record.limits_now)
        for name, before, now in (
            ("depth", record.depth, overrides.get("depth", record.depth)),
            # The prompts of the run contain these two.
            ("max_iterations", record.limits.max_iterations, limits.max_iterations),
            ("max_output_chars", record.limits.max_output_chars, limits.max_output_chars),
        ):
            if now != before:
                raise ConfigError(f"Run {record.run_id} has {name}={before}, which cannot change: leave it out.")
        recorded: OptionsDict = {"depth": record.depth, "limits": limits, "sandbox": record.sandbox}
        prices = {**record.prices, **overrides.get("prices", {})}
        return cls(
            directory=directory,
            record=record,
            options=Options().changed({**recorded, **overrides, "prices": prices}),
        )

    async def contexts(self) -> list[Value | None]:
        """The contexts of its questions. Raises what `stored_contexts` does."""
        return await anyio.to_thread.run_sync(stored_contexts, self.directory, self.record)


@asynccontextmanager
async def start_run(
    options: Options,
    clients: Clients,
    question: RunQuestion,
    *,
    control: RunControl | None = None,
    numbered: bool = False,
) -> AsyncIterator[ActiveRun]:
    """Start a new run.

    Args:
        options: options of the run.
        clients: creates the models.
        question: the first question, with its context. The caller asks it.
        control: changes limits, pauses or stops the run.
        numbered: number the contexts, because further questions may follow.

    Raises what `Orchestrator.completion` does.
    """
    assert question.context is not None
    models = clients.models(options)
    # Invalid options fail before the run directory exists.
    require_known_prices(options, models)
    tools_of(options)
    names = {level: model.name for level, model in models.items()}
    start = RunStarted(query=question.query, depth=options.depth, models=names, context_bytes=question.context.size)
    async with clients.connections(models.values()):
        await find_windows(models.values())  # the record has them: a replay has no server to ask
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
        with run_lock(directory):
            record.save(directory)
            with Journal(directory / JOURNAL) as journal:
                writer, replay = RecordWriter(record, directory), Replay(journal)
                control = control or RunControl(options.limits)
                async with ActiveRun(options, models, writer, replay, start, control, numbered=numbered) as run:
                    yield run


@asynccontextmanager
async def resume_run(
    stored: StoredRun, clients: Clients, *, control: RunControl | None = None, session: bool = False
) -> AsyncIterator[ActiveRun]:
    """Resume a run: answer its questions from its journal, and finish the last one if it was interrupted.

    Args:
        stored: the run.
        clients: creates its models again.
        control: changes limits, pauses or stops the run.
        session: further questions may follow, so a finished run is valid, too.

    Raises what `Orchestrator.resume` does.
    """
    options, record, directory = stored.options, stored.record, stored.directory
    stop = None if session else resumable_stop(record, options.limits, directory)
    ensure_unlocked(directory)
    contexts = await stored.contexts()
    models = {
        level: clients.restore_model(level, model, options, root=record.models[0])
        for level, model in record.models.items()
    }
    require_known_prices(options, models)
    ended = record.state == "finished" and stop is None
    async with clients.connections(models.values()):
        with run_lock(directory), Journal(directory / JOURNAL, mode="open") as journal:
            record.ensure_unchanged(directory)
            replay = Replay(journal, ended=ended)
            if stop is not None:  # before the record drops the stop, so that a failed start can be repeated
                await replay.rewind_to(stop.requests)
            record = record.take_over(
                directory,
                raised={**record.raised, **raised_limits(options.limits, record.limits_now)},
                prices=options.prices,
                stops={number: each for number, each in record.stops.items() if each is not stop},
                answered=record.answered if stop is None else len(record.further),
            )
            start = RunResumed(recorded=replay.recorded, in_flight=replay.in_flight)
            writer, control = RecordWriter(record, directory), control or RunControl(options.limits)
            numbered = session or bool(record.further)
            async with ActiveRun(options, models, writer, replay, start, control, numbered=numbered) as run:
                await run.ask_recorded(contexts)
                yield run


@asynccontextmanager
async def replay_run(stored: StoredRun) -> AsyncIterator[ActiveRun]:
    """Replay a finished run without a model. The only change to its directory is a new one below `replays`.

    Raises what `Orchestrator.replay` does.
    """
    record, directory = stored.record, stored.directory
    if record.state != "finished":
        raise ConfigError(f"Run {record.run_id} has not finished: use `rlm resume` to continue it.")
    contexts = await stored.contexts()
    options = replace(stored.options, limits=replace(stored.options.limits, max_seconds=None))
    models = {
        level: ScriptedModel([], name=model.name, context_window=model.context_window)
        for level, model in record.models.items()
    }
    _, replay_directory = new_directory(directory / "replays")
    with Journal(directory / JOURNAL, mode="read") as journal:
        replay = Replay(journal)
        start = RunResumed(recorded=replay.recorded, in_flight=replay.in_flight)
        writer, control = RecordWriter(record, replay_directory, read_only=True), RunControl(options.limits)
        async with ActiveRun(options, models, writer, replay, start, control, numbered=bool(record.further)) as run:
            await run.ask_recorded(contexts)
            yield run


def resumable_stop(record: RunRecord, limits: Limits, directory: Path) -> StopPoint | None:
    """Where a limit ended the run, if `limits` raises that limit; None for a run that has not finished.

    Raises:
        ConfigError: the run has finished.
    """
    if record.state != "finished":
        return None
    limit = record.stop_reason if record.stop_reason in RAISABLE_LIMITS else None
    stop = record.stops.get(len(record.further))
    if limit is not None and stop is not None and limit in raised_limits(limits, record.limits_now):
        return stop
    advice = "" if limit is None or stop is None else f" It stopped at {limit}: raise that limit to continue."
    raise ConfigError(
        f"Run {record.run_id} has already finished. Its answer is in {directory / 'answer.txt'}; use `rlm replay` to run it "
        f"again offline.{advice}"
    )


def raise_if_limited(completion: Completion, options: Options) -> Completion:
    """Return the completion. Raises LimitExceeded if a limit ended it and the option `on_limit` is `raise`."""
    if options.on_limit == "raise" and completion.stop_reason != "final":
        raise LimitExceeded(f"A limit stopped the run: {completion.stop_reason}.", partial=completion)
    return completion


def require_known_prices(options: Options, models: Mapping[int, Model]) -> None:
    """Raise ConfigError if the cost is limited and a model's price is unknown: that limit would be unenforceable."""
    if options.limits.max_cost_usd is None:
        return
    for model in models.values():
        if model.name not in options.prices and model.cost(Usage()) is None:
            raise ConfigError(
                f"max_cost_usd needs the price of {model.name}, which is unknown. Set it in dollars per million tokens: "
                f"Orchestrator(prices={{{model.name!r}: Price(input=1.25, output=10)}}), or in rlm.toml for the command "
                "line. Or leave max_cost_usd out."
            )


def _model_record(model: Model, options: Options) -> ModelRecord:
    """The record of a model. For a model passed by name, it includes the server, to create the model again."""
    passed = [options.model, options.sub_model, *options.level_models.values()]
    by_name = not any(model is each for each in passed)
    server = model.base_url if by_name and isinstance(model, OpenAIModel) else None
    parameters = {} if server is None else dict(model.parameters)
    return ModelRecord(name=model.name, server=server, context_window=model.context_window, parameters=parameters)
