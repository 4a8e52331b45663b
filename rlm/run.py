"""One run: its id, directory, journal, budget and events around the root RLM; begun, resumed, or replayed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import Final, Literal

import anyio

from .broker import Answered, Task
from .budget import Budget
from .cache import Cache
from .calls import Calls
from .config import Limits, SandboxConfig
from .console import ConsoleView
from .errors import ConfigError, JournalError, LimitExceeded
from .events import (
    AnswerReplayed,
    Event,
    EventLog,
    OnEvent,
    RLMStarted,
    RunFinished,
    RunResumed,
    RunStarted,
    SandboxLost,
    SubCallStarted,
    appending,
    mend,
)
from .journal import FILE_NAME as JOURNAL
from .journal import Journal
from .logs import get_logger
from .loop import Services, rlm_loop, system_prompt_of
from .models.base import HoldsKeys, Model
from .models.openai import OpenAIModel
from .models.prices import Price
from .prompts import PromptFacts, SystemPrompt, default_system_prompt
from .record import ContextRecord, ModelRecord, RunRecord, State, new_directory, store_context
from .request import digest_of
from .sandbox.base import SandboxFactory
from .sandbox.container import DockerSandboxes
from .sandbox.image import source_digest
from .sandbox.values import Value
from .slots import LevelSlots
from .tools import Tools
from .types import Completion, StopReason, Usage

EVENTS: Final = "events.jsonl"

_log = get_logger("rlm.run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How runs are made; see `Orchestrator` for the meaning of each."""

    depth: int = 1
    model: str | Model | None = None
    sub_model: str | Model | None = None
    level_models: Mapping[int, str | Model] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    on_limit: Literal["answer", "raise"] = "answer"
    prices: Mapping[str, Price] = field(default_factory=dict)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    sandboxes: SandboxFactory | None = None
    system_prompt: SystemPrompt = default_system_prompt
    tools: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    tools_for_children: bool = False
    run_root: Path | None = None
    cache: Path | None = None
    verbose: bool = False
    on_event: OnEvent | None = None

    def __post_init__(self) -> None:
        if type(self.depth) is not int or self.depth < 0:
            raise ConfigError(f"depth={self.depth!r} is not a number of levels: give 0, 1, 2, ...")
        if self.limits.max_depth is not None and self.depth > self.limits.max_depth:
            raise ConfigError(
                f"depth={self.depth} is more than Limits(max_depth={self.limits.max_depth}) allows: give a smaller depth."
            )
        if self.on_limit not in ("answer", "raise"):
            raise ConfigError(f"on_limit={self.on_limit!r} cannot be: give 'answer' or 'raise'.")
        for name, price in self.prices.items():
            if not isinstance(price, Price):
                raise ConfigError(f"prices[{name!r}] is a {type(price).__name__}: give Price(input=..., output=...).")


async def run(
    *,
    options: Options,
    models: Mapping[int, Model],
    context: Value,
    query: str | None,
    source: Path | None = None,
) -> Completion:
    """Answer one question with a tree of RLMs; `models` has one for each level from 0 to max(1, depth).

    `source` is the path that the context was given as. Raises what `Orchestrator.completion` says.
    """
    # Refuse what cannot be before there is a directory.
    _refuse_unknown_prices(options, models)
    _slots(options)
    _tools(options)
    run_id, directory = new_directory(options.run_root)
    record = RunRecord(
        run_id=run_id,
        state="running",
        query=query,
        depth=options.depth,
        models={level: _model_record(model, options) for level, model in models.items()},
        limits=options.limits,
        sandbox=options.sandbox,
    )
    record.save(directory)
    names = {level: model.name for level, model in models.items()}
    start = RunStarted(query=query, depth=options.depth, models=names, context_bytes=context.size)
    with Journal(directory / JOURNAL) as journal:
        tree = _Tree(options, models, context, record, directory, journal)
        return await tree.complete(start, store=partial(store_context, directory, context, source))


async def resume(
    *, options: Options, models: Mapping[int, Model], context: Value, record: RunRecord, directory: Path
) -> Completion:
    """Go on with a run that was interrupted: what its journal holds is not asked again."""
    with Journal(directory / JOURNAL, mode="open") as journal:
        tree = _Tree(options, models, context, record.take_over(directory), directory, journal)
        return await tree.complete(RunResumed(recorded=journal.recorded, in_flight=journal.in_flight))


async def replay(
    *, options: Options, models: Mapping[int, Model], context: Value, record: RunRecord, directory: Path
) -> Completion:
    """Go through a finished run again, without any model. Its directory stays as it is but for the replay's own, inside."""
    _, place = new_directory(directory / "replays")
    with Journal(directory / JOURNAL, mode="read") as journal:
        tree = _Tree(options, models, context, record, place, journal)
        return await tree.complete(RunResumed(recorded=journal.recorded, in_flight=journal.in_flight))


Store = Callable[[threading.Event], ContextRecord | None]


class _Tree:
    """The RLMs of one run in one process, with what they share, and the record of how they end."""

    def __init__(
        self,
        options: Options,
        models: Mapping[int, Model],
        context: Value,
        record: RunRecord,
        directory: Path,
        journal: Journal,
    ) -> None:
        self._options = options
        self._models = models
        self._context = context
        self._record = record
        self._directory = directory
        self._journal = journal
        self._stopping = threading.Event()
        self._root = Task(node="0", level=0, depth=options.depth, context=context, query=record.query, model=models[0])

    async def complete(self, start: Event, store: Store | None = None) -> Completion:
        """Run the root RLM to its answer. `store` keeps the context while the sandbox starts."""
        limits = self._options.limits
        tally = _Tally()
        listeners: list[OnEvent] = [tally]
        if self._options.verbose:
            listeners.append(ConsoleView())
        if self._options.on_event is not None:
            listeners.append(self._options.on_event)
        with self._closing_record(), ExitStack() as resources:
            seq = mend(self._directory / EVENTS)
            file = resources.enter_context(appending(self._directory / EVENTS))
            path = self._options.cache
            cache = None if path is None else resources.enter_context(Cache(path))
            events = EventLog(self._record.run_id, file, listeners, redact=_redaction(self._models.values()), seq=seq)
            budget = Budget(limits)
            calls = Calls(
                budget=budget,
                journal=self._journal,
                max_concurrent=limits.max_concurrent_calls,
                events=events,
                cache=cache,
                prices=self._options.prices,
            )
            services = self._services(calls, events)
            prompt = digest_of(system_prompt_of(self._root, services)).hex()
            self._record = replace(self._record, digests={"prompt": prompt, "image": source_digest()})
            if store is not None:
                self._journal.database.begin_with(partial(self._store_context, store))
            events.emit(start)
            answered, seconds = await self._answer(services)
        completion = Completion(
            answer=answered.answer,
            stop_reason=answered.stop_reason,
            usage=budget.used,
            by_model=calls.by_model,
            by_node=calls.by_node,
            seconds=seconds,
            iterations=answered.iterations,
            depth_reached=tally.depth_reached,
            sub_calls=tally.sub_calls,
            sandboxes=tally.sandboxes,
            run_id=self._record.run_id,
            run_dir=self._directory,
            replayed_calls=self._journal.replayed,
            paid_twice=self._journal.paid_twice,
            diverged=tuple(self._journal.diverged),
        )
        if self._options.on_limit == "raise" and completion.stop_reason != "final":
            raise LimitExceeded(f"The run was stopped by a limit: {completion.stop_reason}.", partial=completion)
        return completion

    @contextmanager
    def _closing_record(self) -> Iterator[None]:
        """What fails before the root RLM begins is the end of the run too."""
        try:
            yield
        except Exception:
            if self._record.state == "running":
                self._end("failed", None)
            raise

    def _services(self, calls: Calls, events: EventLog) -> Services:
        options, limits, models = self._options, self._options.limits, self._models
        replaying = self._journal.read_only or limits.max_seconds is None
        return Services(
            limits=limits,
            calls=calls,
            events=events,
            slots=_slots(options),
            sandboxes=options.sandboxes or DockerSandboxes(options.sandbox),
            run_id=self._record.run_id,
            system_prompt=self._system_prompt,
            model_at=lambda level: models[min(level, max(models))],
            by_name={model.name: model for model in models.values()},
            deadline=math.inf if replaying else anyio.current_time() + (limits.max_seconds or 0.0),
            tools=_tools(options),
            tools_for_children=options.tools_for_children,
        )

    def _system_prompt(self, facts: PromptFacts) -> str:
        """What models are told are the limits that the run began with: a replay has to say the same."""
        limits = replace(self._record.limits, max_output_chars=facts.limits.max_output_chars)
        return self._options.system_prompt(replace(facts, limits=limits))

    async def _answer(self, services: Services) -> tuple[Answered, float]:
        """Run the root RLM; however it ends, the record says so."""
        started = time.perf_counter()
        stop_reason: StopReason | None = "cancelled"
        state: State = "interrupted"
        failure: str | None = "cancelled"
        try:
            answered = await rlm_loop(self._root, services)
            self._write_answer(answered.answer)
            stop_reason, failure, state = answered.stop_reason, None, "finished"
        except Exception as error:
            stop_reason, failure, state = None, f"{type(error).__name__}: {error}", "failed"
            raise
        finally:
            seconds = time.perf_counter() - started
            self._stopping.set()
            with anyio.CancelScope(shield=True):
                await self._journal.database.run(partial(self._end, state, stop_reason))
            used = services.calls.budget.used
            services.events.emit(RunFinished(stop_reason=stop_reason, usage=used, seconds=seconds, error=failure))
            _log.info(
                "run_finished", run=services.run_id, stop_reason=stop_reason, seconds=round(seconds, 3), error=failure
            )
        return answered, seconds

    def _write_answer(self, answer: str) -> None:
        try:
            (self._directory / "answer.txt").write_bytes(answer.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise JournalError(
                f"The answer cannot be written in {self._directory} ({error.strerror}): make room, then resume the run."
            ) from error

    # In the journal's thread, in order with what else is written

    def _store_context(self, store: Store) -> None:
        self._record = replace(self._record, context=store(self._stopping))
        self._record.save(self._directory)

    def _end(self, state: State, stop_reason: StopReason | None) -> None:
        if self._journal.read_only:
            return
        self._record = replace(self._record, state=state, stop_reason=stop_reason, ended=time.time())
        try:
            self._record.save(self._directory)
        except JournalError as error:
            # It has ended all the same; the record says that it runs in this process, and can be resumed after it.
            _log.warning("run_not_closed", run=self._record.run_id, reason=str(error))


def _tools(options: Options) -> Tools:
    return Tools(options.tools, seconds=options.sandbox.tool_seconds)


def _refuse_unknown_prices(options: Options, models: Mapping[int, Model]) -> None:
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


def _redaction(models: Iterable[Model]) -> Callable[[str], str]:
    """Takes the keys of all models out of a text."""
    holders = [model for model in models if isinstance(model, HoldsKeys)]
    return lambda text: reduce(lambda clean, holder: holder.redact(clean), holders, text)


def _slots(options: Options) -> LevelSlots:
    return LevelSlots(slots=options.limits.max_sandboxes, levels=max(1, options.depth))


def _model_record(model: Model, options: Options) -> ModelRecord:
    """A model that was given by its name can be made again."""
    given = [options.model, options.sub_model, *options.level_models.values()]
    if any(model is each for each in given) or not isinstance(model, OpenAIModel):
        return ModelRecord(name=model.name, server=None)
    return ModelRecord(name=model.name, server=model.base_url)


class _Tally:
    """Counts what a `Completion` reports."""

    def __init__(self) -> None:
        self.sandboxes = 0
        self.sub_calls = 0
        self.depth_reached = 0

    def __call__(self, event: Event) -> None:
        match event:
            case RLMStarted() | SandboxLost():
                self.sandboxes += 1
            case AnswerReplayed():
                self.sub_calls += len(event.below)
                self.depth_reached = max(self.depth_reached, *(node.count(".") for node in event.below), 0)
            case SubCallStarted():
                self.sub_calls += 1
                self.depth_reached = max(self.depth_reached, event.node.count("."))
