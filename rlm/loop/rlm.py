"""One RLM: asks its model, runs the cells of the reply, and shows the model their results, until it answers.

The only module that knows the order of a turn. Imports calls and what is below; the orchestrator passes in the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from structlog.contextvars import bound_contextvars

from rlm import prompts
from rlm.calls.budget import BudgetExceeded
from rlm.calls.gateway import CallAbandoned
from rlm.errors import ConfigError
from rlm.events import RLMFinished, RLMStarted, TurnStarted
from rlm.prompts import ReplyKind
from rlm.sandbox.base import LoadedValue
from rlm.sandbox.values import Value, head_and_tail
from rlm.types import CellResult, StopPoint

from .answers import FinalAnswer, assigned_names
from .broker import Broker
from .compaction import limits_for_window
from .conversation import Conversation
from .observation import observation
from .progress import LatestCells, answers_whole_context
from .repl import Repl
from .reply import Turn, last_answer, prose_answer, read_leniently, says_nothing
from .services import Services, system_prompt_of, tools_of
from .steps import Steps, Stop
from .task import RLMResult, RLMTask
from .transcript import Transcript

NO_ANSWER: Final = "{'content': '', 'ready': False}"  # the initial value of `answer` in the REPL
CONTEXT_END_CHARS: Final = 200  # head and tail of a child's context in its event: enough to locate it in the root's


async def rlm_loop(task: RLMTask, services: Services) -> RLMResult:
    """Run one RLM to its answer.

    Raises:
        BudgetExceeded: the run has reached its limit on RLMs.
        ModelError: the root model gives no usable reply.
        SandboxError: sandboxes do not start, or were lost too often.
        ConfigError: the sandbox has no memory for the context.
    """
    with bound_contextvars(run=services.run_id, node=task.node):
        async with open_rlm(task, services) as rlm:
            return await rlm.answer()


@asynccontextmanager
async def open_rlm(task: RLMTask, services: Services) -> AsyncIterator[RLM]:
    """Open one RLM with its sandbox. It answers its task, then further questions. Raises as `rlm_loop` does."""
    services.calls.accounting.budget.start_rlm()
    services = replace(services, windows=dict(services.windows))
    child = partial(rlm_loop, services=services)
    services = replace(services, limits=limits_for_window(services.limits, services.window_of(task.model)))
    broker = Broker(
        task=task,
        sub_model=services.model_at(task.level + 1),
        by_name=services.by_name,
        calls=services.calls,
        child=child,
        events=services.events,
    )
    async with services.slots.hold(task.level), _open_repl(task, services, broker) as repl:
        first = prompts.first_message(
            query=task.query,
            context_type=repl.context.type,
            context_size=repl.context.size,
            turns=services.limits.max_iterations,
            notes=task.context.notes,
        )
        yield RLM(task, services, repl, Transcript.begin(system_prompt_of(task, services), first))


@asynccontextmanager
async def _open_repl(task: RLMTask, services: Services, broker: Broker) -> AsyncIterator[Repl]:
    repl = Repl(
        task=task,
        broker=broker,
        tools=tools_of(task, services),
        sandbox_factory=services.sandbox_factory,
        run_id=services.run_id,
        cell_seconds=services.limits.cell_seconds,
        events=services.events,
    )
    async with repl:
        head, tail = head_and_tail(task.context, CONTEXT_END_CHARS) if task.level > 0 else ("", "")
        services.events.emit(
            RLMStarted(
                node=task.node,
                level=task.level,
                depth=task.depth,
                model=task.model.name,
                sandbox=repl.sandbox_id,
                context_type=repl.context.type,
                context_size=repl.context.size,
                context_head=head,
                context_tail=tail,
            )
        )
        yield repl


class RLM:
    """One RLM: takes turns until it has an answer, one question after another."""

    def __init__(self, task: RLMTask, services: Services, repl: Repl, transcript: Transcript) -> None:
        self._task = task
        self._services = services
        self._limits = services.limits
        self._repl = repl
        self._steps = Steps(task, services.calls, repl)
        self._conversation = Conversation(task, services, steps=self._steps, repl=repl, transcript=transcript)
        self._turns = 0  # turns taken for the current question
        self._printed = ""  # by the latest cell of this question that printed anything
        self._contexts = 1
        self._unseen: list[CellResult] = []  # results of the cells that gave the answer, which the model has not seen
        self._query, self._context_type = task.query, repl.context.type  # of the current question
        self._names: set[str] = set()  # names that cells have assigned
        self._doubted: set[str] = set()  # those of them without a value that were an answer: asked about once
        self._latest = Turn()  # the latest reply with text to the current question
        self._context_bytes = task.context.size
        self._seen = repl.context.size == 0  # whether cells have shown the model anything, or there is nothing to see

    async def answer(self, stop_at: StopPoint | None = None) -> RLMResult:
        """Take turns until the latest question has an answer. Raises as `rlm_loop` does.

        Args:
            stop_at: in a replay, where the work on this question stopped.
        """
        self._steps.stop_at(stop_at)
        control = self._services.control
        stop: Stop | None = None
        result: RLMResult | None = None
        with control.cancellable():
            try:
                result = RLMResult(answer=await self._work(), stop_reason="final", iterations=self._turns)
            except Stop as reached:
                stop = reached
        if result is None:
            result = await self._answer_after(stop or self._steps.stop(control.reason))
        await self._services.calls.finish_node(self._task.node)
        self._services.events.emit(
            RLMFinished(
                node=self._task.node,
                answer=result.answer,
                stop_reason=result.stop_reason,
                iterations=result.iterations,
            )
        )
        return result

    async def number_context(self) -> None:
        """Also bind the first context to `context_0`, its name among several contexts."""
        await self._repl.bind("context_0", "context")

    async def ask(self, query: str, context: Value | None) -> None:
        """Ask a further question, with or without a further context. `answer` then answers it.

        Raises:
            ConfigError: the sandbox has no memory for the context. The question was not asked.
            SandboxError: sandboxes do not start, or were lost too often.
        """
        name = f"context_{self._contexts}"
        loaded: LoadedValue | None = None
        if context is not None:
            loaded = await self._repl.load(name, context, grow=True)
            if loaded is None:
                raise ConfigError(f"The sandbox has no memory for `{name}` ({context.size:,} bytes): pass less data.")
            await self._repl.bind("context", name)
            self._contexts += 1
            self._context_bytes, self._seen = context.size, loaded.size == 0
        kept = await self._conversation.load_history()
        await self._repl.bind("answer", NO_ANSWER)  # the previous answer would end the first turn
        self._turns, self._latest, self._printed = 0, Turn(), ""
        self._query, self._context_type = query, loaded.type if loaded else self._context_type
        seen = observation(self._unseen, limit=self._output_chars) if self._unseen else ""
        question = prompts.next_question(
            query=query,
            name=name if loaded else None,
            context_type=loaded.type if loaded else "",
            context_size=loaded.size if loaded else 0,
            turns=self._limits.max_iterations,
            history=kept,
            variables=self._repl.restored,
            notes=() if context is None else context.notes,
        )
        self._conversation.ask(seen, question)

    async def _answer_after(self, stop: Stop) -> RLMResult:
        answer: str | None = None
        with self._services.control.last_turn() as scope:
            answer = await self._last_turn(stop)
        if scope.cancelled_caught:
            await self._steps.abandon_request()
        if answer is None:
            answer = self._latest_answer() or ""
        return RLMResult(answer=answer, stop_reason=stop.reason, iterations=self._turns, stop=stop.at)

    async def _work(self) -> str:
        limits = self._limits
        errors = 0  # consecutive turns without a cell that succeeded and said something new
        latest = LatestCells()
        doubted = False  # an answer is questioned once
        while limits.max_iterations is None or self._turns < limits.max_iterations:
            await self._services.control.wait_if_paused()
            self._turns += 1
            self._emit_turn_started()
            try:
                await self._conversation.fit()
                turn, kind = await self._conversation.next_turn()
            except BudgetExceeded as error:
                raise self._steps.refusal(error.reason, str(error)) from error
            if turn.text:
                self._latest = turn
            doubtful = not doubted and answers_whole_context(turn, context_bytes=self._context_bytes)
            if doubtful:
                doubted, turn = True, replace(turn, final=None)
            results = [await self._steps.run_cell(cell) for cell in turn.cells]
            if printed := [result.stdout for result in results if result.stdout.strip()]:
                self._printed, self._seen = printed[-1], True
            answer = await self._final_answer(turn, results)
            if answer is None and self._turns == limits.max_iterations:
                answer = prose_answer(turn)
            self._unseen = results
            if answer is not None:
                return answer
            repeated = latest.repeated_by(turn.cells, results)
            if turn.cells:
                latest = LatestCells(cells=turn.cells, results=tuple(results))
            succeeded = any(result.outcome == "ok" for result in results) and not repeated
            errors = 0 if succeeded else errors + 1
            if limits.max_consecutive_errors is not None and errors >= limits.max_consecutive_errors:
                raise Stop(
                    "max_consecutive_errors", f"{errors} turns in a row did not run any new code without an error"
                )
            self._show(turn, results, kind=kind, doubtful=doubtful, repeated=repeated)
        raise Stop("max_iterations", f"all {limits.max_iterations} turns are used")

    def _next_step(self) -> str:
        return prompts.next_step(self._query, self._context_type)

    def _latest_answer(self) -> str | None:
        """What the latest reply to this question says, if that can be an answer: not code, and no announcement."""
        match self._latest.final:
            case FinalAnswer(kind="text", value=value) as final if (
                not final.is_code(self._names) and not final.is_placeholder
            ):
                return value
        return prose_answer(self._latest)

    async def _last_turn(self, stop: Stop) -> str | None:
        """Ask for one more reply. If it has no final answer, its text is the answer. None if there is no reply."""
        self._emit_turn_started()
        try:
            turn = await self._conversation.last_turn(str(stop))
        except CallAbandoned:  # time ran out for this turn in the recorded run
            return None
        except BudgetExceeded:
            if self._task.level > 0 and not self._latest_answer():
                raise
            return None
        results = [await self._repl.run(cell, calls=False) for cell in turn.cells]
        outputs = [result.stdout for result in results]
        turn = read_leniently(turn)
        answer = await self._final_answer(turn, results, last=True)
        self._unseen = results
        if answer is None and says_nothing(turn):
            answer = next(filter(str.strip, [*reversed(outputs), self._printed]), "").strip() or self._latest_answer()
        return last_answer(turn, outputs) or None if answer is None else answer

    async def _final_answer(self, turn: Turn, results: list[CellResult], *, last: bool = False) -> str | None:
        """The answer that a turn gave: in a cell, as a variable, or as text if no cell's output is unseen.

        A text that may be meant as code, or that stands for an answer, is none: the model is asked what it means. So is
        the name of a variable that has no value, once: it may be a word. The last turn cannot ask: it evaluates
        code.
        """
        assigned = {name for cell in turn.cells for name in assigned_names(cell)}
        self._names |= assigned
        self._doubted -= assigned
        for result in reversed(results):
            if result.answer is not None:
                return result.answer
        final = turn.final
        if final is None or (turn.cells and final.kind != "variable" and not last):
            return None
        if final.kind == "variable":
            result = await self._steps.run_cell(f"FINAL_VAR({final.value!r})")
            results.append(result)
            return result.answer
        if final.is_name and (final.name in self._names or final.name == "context"):
            result = await self._steps.run_cell(f"FINAL_VAR({final.name!r})")
            if result.answer is not None:
                return result.answer
            if final.name in self._names - self._doubted and not last:
                self._doubted.add(final.name)
                results.append(result)
                return None
        if final.is_code(self._names):
            evaluated = (await self._repl.run(f"FINAL({final.value})", calls=False)).answer if last else None
            return final.value if evaluated is None and last and final.kind == "text" else evaluated
        return None if final.is_placeholder else final.value

    def _show(self, turn: Turn, results: list[CellResult], *, kind: ReplyKind, doubtful: bool, repeated: bool) -> None:
        limits, step = self._limits, self._next_step()
        parts = [observation(results, limit=self._output_chars)] if results else []
        match turn.final:
            case _ if doubtful:
                parts.append(prompts.WHOLE_CONTEXT)
            case None if not results:
                last = limits.max_iterations is not None and self._turns + 1 >= limits.max_iterations
                parts.append(prompts.no_code(kind, step, seen=self._seen or last))
            case None if repeated:
                parts.append(prompts.repeated(None if step in turn.cells else step))
            case FinalAnswer(kind="text" | "expression") if turn.cells:
                parts.append(prompts.FINAL_BESIDE_CODE)
            case FinalAnswer(kind="text") if results:
                pass  # the name of a variable without a value: the error says so
            case FinalAnswer(kind="text") as final if final.is_placeholder:
                parts.append(prompts.answer_is_placeholder(final.value))
            case FinalAnswer(kind="text" | "expression", value=value):
                parts.append(prompts.answer_is_code(value))
        if results and kind == "cut_off":
            parts.append(prompts.CUT_OFF)
        if limits.max_iterations is None or self._turns < limits.max_iterations:
            parts.append(prompts.turn_line(self._turns + 1, limits.max_iterations))
        self._conversation.add_message("\n\n".join(parts))

    @property
    def _output_chars(self) -> int | None:
        """Maximum characters of a cell's output in the conversation. A window learned meanwhile reduces it."""
        return limits_for_window(self._limits, self._conversation.window).max_output_chars

    def _emit_turn_started(self) -> None:
        turn = TurnStarted(node=self._task.node, turn=self._turns, of=self._limits.max_iterations)
        self._services.events.emit(turn)
