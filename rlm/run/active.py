"""One run in one process: asks the root RLM its questions, one by one. Imports loop and what is below."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Final, Self

from structlog.contextvars import bound_contextvars

from rlm._util.logs import get_logger
from rlm._util.portal import note
from rlm.calls.accounting import Accounting
from rlm.calls.cache import Cache
from rlm.calls.gateway import Calls
from rlm.config import RAISABLE_LIMITS, Limits
from rlm.events import Event, LimitsRaised, OnEvent, QuestionAsked, RunFinished
from rlm.loop.control import RunControl
from rlm.loop.rlm import RLM, open_rlm
from rlm.loop.services import Services, system_prompt_of
from rlm.loop.task import RLMResult, RLMTask
from rlm.models.base import Model
from rlm.models.request import digest_of
from rlm.prompts import PromptContext
from rlm.sandbox.docker.container import DockerSandboxes
from rlm.sandbox.docker.image import source_digest
from rlm.sandbox.tools import Tools
from rlm.sandbox.values import Value
from rlm.store.event_log import EventLog, open_for_append, truncate_partial_line
from rlm.store.record import State
from rlm.store.record_writer import RecordWriter
from rlm.store.replay import Replay
from rlm.types import Completion, StopPoint, StopReason, Usage

from .counts import CountingListener, RunCounts
from .options import Options, slots_of

EVENTS: Final = "events.jsonl"

_log = get_logger("rlm.run")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuestion:
    """A question with its context.

    Attributes:
        query: the question; None if the first question's context contains it.
        context: the encoded context; None for a further question without one.
        source: the caller's path of the context, if it passed a `Path`.
    """

    query: str | None
    context: Value | None
    source: Path | None = None


class ActiveRun:
    """The questions of one run, and the services of its RLMs. An async context manager: leaving it ends the run.

    Args:
        options: options of the run.
        models: models by level, from the root (0) to the level of plain calls.
        writer: keeps the run's record.
        replay: serves calls from the run's journal.
        first_event: emitted before the first question.
        control: changes limits, pauses or stops the run.
        numbered: number the contexts, because further questions may follow.

    Attributes:
        completions: the answers so far.
    """

    def __init__(
        self,
        options: Options,
        models: Mapping[int, Model],
        writer: RecordWriter,
        replay: Replay,
        first_event: Event,
        control: RunControl,
        *,
        numbered: bool,
    ) -> None:
        self.completions: list[Completion] = []
        self._options = options
        self._models = models
        self._writer = writer
        self._replay = replay
        self._first_event = first_event
        self._control = control
        self._numbered = numbered
        self._resources = ExitStack()
        self._root = AsyncExitStack()
        self._counting = CountingListener()
        self._seconds = 0.0  # spent on questions
        self._counted = RunCounts()
        self._calls: Calls
        self._events: EventLog
        self._open_root: Callable[[], AbstractAsyncContextManager[RLM]]
        self._rlm: RLM | None = None

    async def __aenter__(self) -> Self:
        try:
            self._open()
        except BaseException as error:
            self._resources.close()
            await self._writer.close(_state(error))
            raise
        return self

    def _open(self) -> None:
        options, path = self._options, self.directory / EVENTS
        listeners: list[OnEvent] = [self._counting]
        if options.on_event is not None:
            listeners.append(options.on_event)
        seq = truncate_partial_line(path)
        file = self._resources.enter_context(open_for_append(path))
        cache = None if options.cache is None else self._resources.enter_context(Cache(options.cache))
        redact = _redaction(self._models.values())
        self._events = EventLog(self._writer.record.run_id, file, listeners, redact=redact, seq=seq)
        self._calls = Calls(
            accounting=Accounting(options.limits, prices=options.prices),
            replay=self._replay,
            max_concurrent=options.limits.max_concurrent_calls,
            events=self._events,
            cache=cache,
        )
        self._calls.accounting.add_recorded_usage(self._replay.usage_of_stale_calls())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._log_context():
                await self._root.aclose()
        except BaseException as closing:
            error = error or closing
            raise
        finally:
            if error is not None and self._is_resumable(error):
                add_note = error.add_note if isinstance(error, Exception) else note
                add_note(self._resume_hint())
            try:
                await self._writer.close(_state(error))
                self._emit_run_finished(error)
            finally:
                self._resources.close()

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self._writer.directory

    @property
    def usage(self) -> Usage:
        """The usage of all questions."""
        return self._calls.accounting.budget.used

    async def ask(self, question: RunQuestion, *, recorded: bool = False) -> Completion:
        """Answer the first or a further question.

        Args:
            question: the question.
            recorded: whether the record has the question, and the journal some of its calls.
        """
        record, number, began = self._writer.record, len(self.completions), time.perf_counter()
        stop = record.stops.get(number) if recorded else None
        try:
            with self._control.question_clock(replaying=recorded and number < record.answered), self._log_context():
                if question.context is not None and not recorded:
                    for note in question.context.notes:
                        _log.warning("context_changed", advice=note)
                if number == 0:
                    self._begin(question, store=not recorded)
                rlm = await self._root_rlm() if stop is None or stop.started else None
                await self._writer.flush()
                if number > 0:
                    await self._ask_further(rlm, question, store=not recorded)
                result = _expired_result(stop, self._control.reason) if rlm is None else await rlm.answer(stop)
        finally:
            seconds = time.perf_counter() - began
            self._seconds += seconds
        await self._writer.record_answer(result.answer, number=number, stop_reason=result.stop_reason, stop=result.stop)
        self.completions.append(self._completion(result, seconds))
        return self.completions[-1]

    async def ask_recorded(self, contexts: Iterable[Value | None]) -> None:
        """Answer all recorded questions again, from the journal as far as possible."""
        record = self._writer.record
        queries = [record.query, *(question.query for question in record.further)]
        for query, context in zip(queries, contexts, strict=True):
            await self.ask(RunQuestion(query=query, context=context), recorded=True)

    def _begin(self, question: RunQuestion, *, store: bool) -> None:
        """Prepare the root RLM, and store the context meanwhile."""
        assert question.context is not None
        task = RLMTask(
            node="0",
            level=0,
            depth=self._options.depth,
            context=question.context,
            query=question.query,
            model=self._models[0],
        )
        services = self._services()
        prompt = digest_of(system_prompt_of(task, services)).hex()
        digests = {"prompt": prompt, "image": source_digest()}
        self._writer.begin(digests, question.context if store else None, question.source)
        self._events.emit(self._first_event)
        self._control.on_limits = self._raise_limits
        if self._control.limits != self._options.limits:  # raised before the run began
            self._raise_limits(self._control.limits)
        self._open_root = partial(open_rlm, task, services)

    async def _root_rlm(self) -> RLM | None:
        """The root RLM, which the first question opens. None if the run's time, which includes this start, ends first."""
        if self._rlm is None:
            with self._control.cancellable():
                async with AsyncExitStack() as opening:
                    rlm = await opening.enter_async_context(self._open_root())
                    if self._numbered:
                        await rlm.number_context()
                    self._rlm, self._root = rlm, opening.pop_all()
        return self._rlm

    async def _ask_further(self, rlm: RLM | None, question: RunQuestion, *, store: bool) -> None:
        """Ask the RLM a further question. It is recorded before it costs anything."""
        assert question.query is not None
        if rlm is not None:
            await rlm.ask(question.query, question.context)
        if store:
            await self._writer.add_question(question.query, question.context, question.source)
        size = None if question.context is None else question.context.size
        self._events.emit(QuestionAsked(query=question.query, context_bytes=size))

    def _completion(self, result: RLMResult, seconds: float) -> Completion:
        counts = RunCounts(
            usage=self.usage,
            by_model=dict(self._calls.accounting.by_model),
            by_node=dict(self._calls.accounting.by_node),
            sub_calls=self._counting.sub_calls,
            sandboxes=self._counting.sandboxes,
            unaccounted=self._calls.accounting.budget.unaccounted,
            replayed=self._replay.replayed,
            resent_calls=self._replay.resent_calls,
            diverged=tuple(self._replay.diverged),
        )
        part, self._counted = counts.since(self._counted), counts
        return Completion(
            answer=result.answer,
            stop_reason=result.stop_reason,
            usage=part.usage,
            by_model=part.by_model,
            by_node=part.by_node,
            seconds=seconds,
            iterations=result.iterations,
            depth_reached=self._counting.depth_reached,
            sub_calls=part.sub_calls,
            sandboxes=part.sandboxes,
            run_id=self._writer.record.run_id,
            run_dir=self.directory,
            unaccounted_calls=part.unaccounted,
            replayed_calls=part.replayed,
            resent_calls=part.resent_calls,
            diverged=part.diverged,
        )

    def _services(self) -> Services:
        options, models = self._options, self._models
        return Services(
            limits=options.limits,
            calls=self._calls,
            events=self._events,
            slots=slots_of(options),
            sandbox_factory=options.sandbox_factory or DockerSandboxes(options.sandbox),
            run_id=self._writer.record.run_id,
            system_prompt=self._system_prompt,
            model_at=lambda level: models[min(level, max(models))],
            by_name={model.name: model for model in models.values()},
            control=self._control,
            tools=tools_of(options),
            tools_for_children=options.tools_for_children,
            windows={
                model.name: recorded.context_window
                for level, recorded in self._writer.record.models.items()
                if (model := models[level]).context_window is None and recorded.context_window is not None
            },  # of a resumed run's objects: their server stated it when the run started
        )

    def _system_prompt(self, facts: PromptContext) -> str:
        """The prompt, with the limits at the start of the run, because a replay has to send the same prompt."""
        limits = replace(self._writer.record.limits, max_output_chars=facts.limits.max_output_chars)
        return self._options.system_prompt(replace(facts, limits=limits))

    def _raise_limits(self, limits: Limits) -> None:
        before = self._calls.accounting.budget.limits
        new = {
            name: getattr(limits, name) for name in RAISABLE_LIMITS if getattr(limits, name) != getattr(before, name)
        }
        self._calls.accounting.set_limits(limits)
        self._writer.raise_limits(new)
        self._events.emit(LimitsRaised(limits=new))

    def _log_context(self) -> AbstractContextManager[None]:
        return bound_contextvars(run=self._writer.record.run_id, node="0")

    def _is_resumable(self, error: BaseException) -> bool:
        """Whether resuming the run would save anything, as far as this process knows."""
        stored = self._writer.record.context is not None and not self._writer.read_only
        return stored and (self.usage.calls > 0 or not isinstance(error, Exception))

    def _resume_hint(self) -> str:
        path = str(self.directory)
        by_name = all(model.server is not None for model in self._writer.record.models.values())
        return f"To continue this run: {f'rlm resume {quote(path)}' if by_name else f'Orchestrator.resume({path!r})'}"

    def _emit_run_finished(self, error: BaseException | None) -> None:
        failure = None
        if error is not None:
            failure = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else "cancelled"
        record = self._writer.record
        self._events.emit(
            RunFinished(stop_reason=record.stop_reason, usage=self.usage, seconds=self._seconds, error=failure)
        )
        _log.info(
            "run_finished",
            run=record.run_id,
            stop_reason=record.stop_reason,
            seconds=round(self._seconds, 3),
            error=failure,
        )


def tools_of(options: Options) -> Tools:
    """The host functions of a run. Raises ConfigError if one is not a valid tool."""
    return Tools(options.tools, seconds=options.sandbox.tool_seconds)


def _state(error: BaseException | None) -> State:
    """The final state of a run that ended with this error."""
    match error:
        case None:
            return "finished"
        case Exception():
            return "failed"
        case _:
            return "interrupted"


def _expired_result(stop: StopPoint | None, reason: StopReason) -> RLMResult:
    """The result of a question that stopped before the root RLM could start. `stop` is the recorded stop, if any."""
    stop = stop or StopPoint(reason=reason, replies=0, cells=0, requests=0, queries=0, started=False)
    return RLMResult(answer="", stop_reason=stop.reason, iterations=0, stop=stop)


def _redaction(models: Iterable[Model]) -> Callable[[str], str]:
    """A function that removes the secrets of all models from a text."""
    return lambda text: reduce(lambda redacted, model: model.redact(redacted), models, text)
