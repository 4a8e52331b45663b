"""The RLMs of one run in one process: question after question is put to the root, and the record says how each ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Final, Self

import anyio

from rlm._util.logs import bound, get_logger
from rlm._util.portal import note
from rlm.calls.budget import Budget
from rlm.calls.cache import Cache
from rlm.calls.gateway import Calls
from rlm.config import RAISABLE, Limits
from rlm.errors import JournalError
from rlm.events import Event, LimitsRaised, OnEvent, QuestionAsked, RunFinished
from rlm.loop.broker import RLMResult, RLMTask
from rlm.loop.control import RunControl
from rlm.loop.rlm import RLM, Services, open_rlm, system_prompt_of
from rlm.models.base import Model, Redacting
from rlm.models.request import digest_of
from rlm.prompts import PromptContext
from rlm.sandbox.docker.container import DockerSandboxes
from rlm.sandbox.docker.image import source_digest
from rlm.sandbox.tools import Tools
from rlm.sandbox.values import Value
from rlm.store.contexts import store_context
from rlm.store.event_log import EventLog, open_for_append, truncate_partial_line
from rlm.store.record import FurtherQuestion, RunRecord, State
from rlm.store.replay import Replay
from rlm.types import Completion, StopPoint, StopReason, Usage

from .counts import CountingListener, RunCounts
from .options import Options, slots_of

EVENTS: Final = "events.jsonl"

_log = get_logger("rlm.run")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuestion:
    """What is asked. Only a session's further questions may come without a context; the others may without a `query`, which
    then is in the context. `source` is the path that the context was given as.
    """

    query: str | None
    context: Value | None
    source: Path | None = None


class ActiveRun:
    """The RLMs of one run in one process, with what they share, and the record of how they end.

    An async context manager: leaving it, in whatever way, is the end of the run.
    """

    def __init__(
        self,
        options: Options,
        models: Mapping[int, Model],
        record: RunRecord,
        directory: Path,
        replay: Replay,
        start: Event,
        control: RunControl,
        *,
        numbered: bool = False,
    ) -> None:
        self._options = options
        self._models = models
        self._record = record
        self._directory = directory
        self._replay = replay
        self._start = start
        self._control = control
        self._numbered = numbered
        self._stopping = threading.Event()
        self._resources = ExitStack()
        self._root = AsyncExitStack()
        self._counting = CountingListener()
        self._seconds = 0.0  # in which questions were answered
        self._asked = 0
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
            await self._close_record(error)
            raise
        return self

    def _open(self) -> None:
        options = self._options
        listeners: list[OnEvent] = [self._counting]
        if options.on_event is not None:
            listeners.append(options.on_event)
        seq = truncate_partial_line(self._directory / EVENTS)
        file = self._resources.enter_context(open_for_append(self._directory / EVENTS))
        cache = None if options.cache is None else self._resources.enter_context(Cache(options.cache))
        self._events = EventLog(self._record.run_id, file, listeners, redact=_redaction(self._models.values()), seq=seq)
        self._calls = Calls(
            budget=Budget(options.limits),
            replay=self._replay,
            max_concurrent=options.limits.max_concurrent_calls,
            events=self._events,
            cache=cache,
            prices=options.prices,
        )
        self._calls.add_recorded_usage(self._replay.usage_of_stale_calls())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._told():
                await self._root.aclose()
        except BaseException as closing:
            error = error or closing
            raise
        finally:
            if error is not None and self._can_go_on(error):
                tell = error.add_note if isinstance(error, Exception) else note
                tell(self._how_to_go_on())
            self._stopping.set()
            try:
                await self._close_record(error)
                self._tell_end(error)
            finally:
                self._resources.close()

    @property
    def directory(self) -> Path:
        """Of the run."""
        return self._directory

    @property
    def usage(self) -> Usage:
        """Of all questions."""
        return self._calls.budget.used

    async def ask(self, question: RunQuestion, *, again: bool = False) -> Completion:
        """The answer to a question, the first of the run or a further one.

        Args:
            question: what is asked.
            again: it is one of the record's, and the journal has at least a part of it.
        """
        number, began = self._asked, time.perf_counter()
        try:
            with self._control.question_clock(again=again and number < self._record.answered), self._told():
                if number == 0:
                    self._begin(question, store=not again)
                stop = self._record.stops.get(number) if again else None
                rlm = await self._root_rlm() if stop is None or stop.started else None
                if number > 0:
                    await self._go_on(rlm, question, number, store=not again)
                answered = _too_late(stop, self._control.reason) if rlm is None else await rlm.answer(stop)
        finally:
            seconds = time.perf_counter() - began
            self._seconds += seconds
        self._asked += 1
        self._write_answer(answered.answer)
        stops = {} if answered.stop is None else {number: answered.stop}
        await self._replay.journal.database.run(partial(self._note_end, answered.stop_reason, stops))
        now = self._count()
        part, self._counted = now.since(self._counted), now
        return Completion(
            answer=answered.answer,
            stop_reason=answered.stop_reason,
            usage=part.usage,
            by_model=part.by_model,
            by_node=part.by_node,
            seconds=seconds,
            iterations=answered.iterations,
            depth_reached=self._counting.depth_reached,
            sub_calls=part.sub_calls,
            sandboxes=part.sandboxes,
            run_id=self._record.run_id,
            run_dir=self._directory,
            unaccounted_calls=part.unaccounted,
            replayed_calls=part.replayed,
            resent_calls=part.resent_calls,
            diverged=part.diverged,
        )

    async def ask_again(self, contexts: Iterable[Value | None]) -> list[Completion]:
        """The answers to all questions of the record, whose contexts these are."""
        queries = [self._record.query, *(question.query for question in self._record.further)]
        return [
            await self.ask(RunQuestion(query=query, context=context), again=True)
            for query, context in zip(queries, contexts, strict=True)
        ]

    def _begin(self, question: RunQuestion, *, store: bool) -> None:
        """Say what the root RLM is to do, and keep the context meanwhile."""
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
        self._record = replace(self._record, digests={"prompt": prompt, "image": source_digest()})
        if store:
            self._replay.journal.database.begin_with(partial(self._store_first, question.context, question.source))
        self._events.emit(self._start)
        self._control.on_limits = self._raise_limits
        if self._control.limits != self._options.limits:  # raised before there was a run
            self._raise_limits(self._control.limits)
        self._open_root = partial(open_rlm, task, services)

    async def _root_rlm(self) -> RLM | None:
        """The root RLM, opened where it is not yet: its start takes of the run's time. None where that is too short."""
        if self._rlm is None:
            with self._control.cancellable():
                async with AsyncExitStack() as opening:
                    rlm = await opening.enter_async_context(self._open_root())
                    if self._numbered:
                        await rlm.number_context()
                    self._rlm, self._root = rlm, opening.pop_all()
        return self._rlm

    async def _go_on(self, rlm: RLM | None, question: RunQuestion, number: int, *, store: bool) -> None:
        """Put a further question; it is in the record before it costs anything."""
        assert question.query is not None
        if rlm is not None:
            await rlm.ask(question.query, question.context)
        if store:
            await self._replay.journal.database.run(partial(self._store_further, question, number))
        size = None if question.context is None else question.context.size
        self._events.emit(QuestionAsked(query=question.query, context_bytes=size))

    def _told(self) -> AbstractContextManager[None]:
        """What is logged meanwhile is of the run's root."""
        return bound(run=self._record.run_id, node="0")

    def _services(self) -> Services:
        options, models = self._options, self._models
        return Services(
            limits=options.limits,
            calls=self._calls,
            events=self._events,
            slots=slots_of(options),
            sandbox_factory=options.sandbox_factory or DockerSandboxes(options.sandbox),
            run_id=self._record.run_id,
            system_prompt=self._system_prompt,
            model_at=lambda level: models[min(level, max(models))],
            by_name={model.name: model for model in models.values()},
            control=self._control,
            tools=tools_of(options),
            tools_for_children=options.tools_for_children,
        )

    def _system_prompt(self, facts: PromptContext) -> str:
        """What models are told are the limits that the run began with: a replay has to say the same."""
        limits = replace(self._record.limits, max_output_chars=facts.limits.max_output_chars)
        return self._options.system_prompt(replace(facts, limits=limits))

    def _raise_limits(self, limits: Limits) -> None:
        """Higher limits from now on, also for the record."""
        budget = self._calls.budget
        new = {
            name: getattr(limits, name) for name in RAISABLE if getattr(limits, name) != getattr(budget.limits, name)
        }
        self._calls.take_limits(limits)
        self._replay.journal.database.begin_with(partial(self._note_limits, new))
        self._events.emit(LimitsRaised(limits=new))

    def _count(self) -> RunCounts:
        return RunCounts(
            usage=self._calls.budget.used,
            by_model=dict(self._calls.by_model),
            by_node=dict(self._calls.by_node),
            sub_calls=self._counting.sub_calls,
            sandboxes=self._counting.sandboxes,
            unaccounted=self._calls.budget.unaccounted,
            replayed=self._replay.replayed,
            resent_calls=self._replay.resent_calls,
            diverged=tuple(self._replay.diverged),
        )

    def _write_answer(self, answer: str) -> None:
        try:
            (self._directory / "answer.txt").write_bytes(answer.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise JournalError(
                f"The answer cannot be written in {self._directory} ({error.strerror}): make room, then resume the run."
            ) from error

    def _can_go_on(self, error: BaseException) -> bool:
        """Whether a resumed run would keep something, as far as that is known."""
        kept = self._record.context is not None and not self._replay.read_only
        return kept and (self.usage.calls > 0 or not isinstance(error, Exception))

    def _how_to_go_on(self) -> str:
        by_name = all(model.server is not None for model in self._record.models.values())
        path = str(self._directory)
        return f"to go on with the run: {f'rlm resume {quote(path)}' if by_name else f'Orchestrator.resume({path!r})'}"

    async def _close_record(self, error: BaseException | None) -> None:
        match error:
            case None:
                state: State = "finished"
            case Exception():
                state = "failed"
            case _:
                state = "interrupted"
        with anyio.CancelScope(shield=True):
            await self._replay.journal.database.run(partial(self._end, state))

    def _tell_end(self, error: BaseException | None) -> None:
        failure = None
        if error is not None:
            failure = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else "cancelled"
        used = self._calls.budget.used
        ended = self._record.stop_reason
        self._events.emit(RunFinished(stop_reason=ended, usage=used, seconds=self._seconds, error=failure))
        _log.info(
            "run_finished",
            run=self._record.run_id,
            stop_reason=ended,
            seconds=round(self._seconds, 3),
            error=failure,
        )

    # In the journal's thread, in order with what else is written

    def _store_first(self, context: Value, source: Path | None) -> None:
        stored = store_context(self._directory, context, source, self._stopping)
        self._record = replace(self._record, context=stored)
        self._save()

    def _store_further(self, question: RunQuestion, number: int) -> None:
        context = question.context
        stored = (
            None
            if context is None
            else store_context(self._directory, context, question.source, self._stopping, number=number)
        )
        assert question.query is not None
        further = (*self._record.further, FurtherQuestion(query=question.query, context=stored))
        self._record = replace(self._record, further=further)
        self._save()

    def _note_end(self, stop_reason: StopReason, stops: Mapping[int, StopPoint]) -> None:
        answered = max(self._record.answered, self._asked)
        stops = {**self._record.stops, **stops}
        self._record = replace(self._record, stop_reason=stop_reason, answered=answered, stops=stops)
        self._save()

    def _note_limits(self, new: Mapping[str, float | None]) -> None:
        self._record = replace(self._record, raised={**self._record.raised, **new})
        self._save()

    def _save(self) -> None:
        if not self._replay.read_only:
            self._record.save(self._directory)

    def _end(self, state: State) -> None:
        reasons: Mapping[State, StopReason | None] = {"finished": self._record.stop_reason, "interrupted": "cancelled"}
        self._record = replace(self._record, state=state, stop_reason=reasons.get(state), ended=time.time())
        try:
            self._save()
        except JournalError as error:
            # It has ended all the same; the record says that it runs, and nobody holds it: it can be resumed.
            _log.warning("run_not_closed", run=self._record.run_id, reason=str(error))


def _too_late(stop: StopPoint | None, reason: StopReason) -> RLMResult:
    """The end of a question whose time was up before the root RLM could start; `stop` is that of the record."""
    stop = stop or StopPoint(reason=reason, replies=0, cells=0, requests=0, queries=0, started=False)
    return RLMResult(answer="", stop_reason=stop.reason, iterations=0, stop=stop)


def tools_of(options: Options) -> Tools:
    """The functions of the host. Raises ConfigError where one cannot be a tool."""
    return Tools(options.tools, seconds=options.sandbox.tool_seconds)


def _redaction(models: Iterable[Model]) -> Callable[[str], str]:
    """Takes the keys of all models out of a text."""
    holders = [model for model in models if isinstance(model, Redacting)]
    return lambda text: reduce(lambda clean, holder: holder.redact(clean), holders, text)
