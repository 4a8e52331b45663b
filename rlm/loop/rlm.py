"""One RLM: ask the root model, run its cells, show it what they did, until it answers.

The only module that knows the order of a turn; everything it calls is handed in by the orchestrator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import anyio

from rlm import prompts
from rlm._util.logs import bound
from rlm._util.text import clip, fenced
from rlm.calls.budget import BudgetExceeded
from rlm.calls.gateway import CallAbandoned, Calls
from rlm.config import Limits
from rlm.errors import ConfigError, ContextTooLong
from rlm.events import Compacted, RLMFinished, RLMStarted, ToolUsed, TurnStarted
from rlm.models.base import Model
from rlm.prompts import PromptContext, SystemPrompt
from rlm.sandbox.base import LoadedValue, SandboxFactory
from rlm.sandbox.slots import LevelSlots
from rlm.sandbox.tools import Tools, ToolUse
from rlm.sandbox.values import Value, encode, ends_of
from rlm.store.event_log import EventLog
from rlm.types import CellResult, Message, ModelReply, StopPoint, StopReason

from .broker import Broker
from .compaction import ContextWindow, limits_for_window
from .control import RunControl
from .observation import describe, observation
from .repl import Repl
from .reply import Turn, parse
from .task import RLMResult, RLMTask
from .transcript import Transcript

SENTENCES: Final[Mapping[StopReason, str]] = {  # why the work was stopped from outside
    "max_seconds": "the time of the run is used up",
    "stopped": "your user asks for the answer now",
}
NO_ANSWER: Final = "{'content': '', 'ready': False}"  # what `answer` is at the beginning
CONTEXT_END_CHARS: Final = 200  # of a called RLM's context that are told, so that its place in the root's can be found
LAST_TURN_CHARS: Final = 1_000  # of the newest exchange, where the whole conversation does not fit into what is left
LAST_TURN_ROOM: Final = Message(role="user", content=" " * 5_000)  # the size of those, at most, and of the request


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the RLMs of a run share.

    `model_at` gives the model of a level, `by_name` the models that a call may ask for. `control` says when the run stops
    to work and answers with what it has.
    """

    limits: Limits
    calls: Calls
    events: EventLog
    slots: LevelSlots
    sandbox_factory: SandboxFactory
    run_id: str
    system_prompt: SystemPrompt
    model_at: Callable[[int], Model]
    by_name: Mapping[str, Model]
    control: RunControl
    tools: Tools
    tools_for_children: bool


class _Stop(Exception):
    """A limit ends the work of this RLM; its last turn follows."""

    def __init__(self, reason: StopReason, sentence: str, *, at: StopPoint | None = None) -> None:
        super().__init__(sentence)
        self.reason: StopReason = reason
        self.at = at


async def rlm_loop(task: RLMTask, services: Services) -> RLMResult:
    """Run one RLM to its answer.

    Raises:
        BudgetExceeded: the run may start no further RLM.
        ModelError: the root model gives no usable reply.
        SandboxError: sandboxes cannot be started, or were lost time and again.
        ConfigError: the context cannot be built in a sandbox.
    """
    with bound(run=services.run_id, node=task.node):
        async with open_rlm(task, services) as rlm:
            return await rlm.answer()


@asynccontextmanager
async def open_rlm(task: RLMTask, services: Services) -> AsyncIterator[RLM]:
    """One RLM with its sandbox, which answers its task and, after that, further questions. Raises what `rlm_loop` does."""
    services.calls.accounting.budget.start_rlm()
    child = partial(rlm_loop, services=services)
    services = replace(services, limits=limits_for_window(services.limits, task.model.context_window))
    below = services.model_at(task.level + 1)
    broker = Broker(
        task=task,
        below=below,
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
        )
        yield RLM(task, services, repl, Transcript.begin(system_prompt_of(task, services), first))


def _tools_of(task: RLMTask, services: Services) -> Tools:
    """The functions of the host that an RLM's cells may call; those of children are the caller's decision."""
    if task.level > 0 and not services.tools_for_children:
        return Tools({})

    def record(use: ToolUse) -> None:
        services.events.emit(
            ToolUsed(node=task.node, tool=use.name, arguments=use.arguments, ok=use.ok, seconds=use.seconds)
        )

    return services.tools.told(record)


def system_prompt_of(task: RLMTask, services: Services) -> str:
    """What the model of an RLM is told first."""
    facts = PromptContext(
        model=task.model.name,
        sub_model=services.model_at(task.level + 1).name,
        models=tuple(services.by_name),
        level=task.level,
        depth=task.depth,
        limits=services.limits,
        tools=tuple(_tools_of(task, services).descriptions.values()),
    )
    return services.system_prompt(facts)


class RLM:
    """The conversation of one RLM: its turns, up to an answer, and from there to the next."""

    def __init__(self, task: RLMTask, services: Services, repl: Repl, transcript: Transcript) -> None:
        self._task = task
        self._services = services
        self._repl = repl
        self._transcript = transcript
        self._window = ContextWindow(window=task.model.context_window)
        self._turns = 0
        self._requests = self._replies = self._cells = 0
        self._stop_at: StopPoint | None = None
        self._unseen: list[CellResult] = []  # by the model: of the cells that gave the answer
        self._contexts = 1

    async def answer(self, stop_at: StopPoint | None = None) -> RLMResult:
        """Take turns until there is an answer to the question that was put last. Raises what `rlm_loop` does.

        In a replay, `stop_at` is where the work on it was ended.
        """
        control = self._services.control
        # Refusals are in the journal; what came from outside is not.
        self._stop_at = stop_at if stop_at is not None and stop_at.reason in SENTENCES else None
        answered: RLMResult | None = None
        stop: _Stop | None = None
        with control.cancellable():
            try:
                answered = RLMResult(answer=await self._work(), stop_reason="final", iterations=self._turns)
            except _Stop as limit:
                stop = limit
        if answered is None:
            stop = stop or _Stop(control.reason, SENTENCES[control.reason], at=self._here(control.reason))
            answer = ""
            with anyio.move_on_after(control.last_turn_seconds) as scope:
                answer = await self._last_turn(stop)
            if scope.cancelled_caught:
                await self._services.calls.abandon(self._task.node, self._requests)
            answered = RLMResult(answer=answer, stop_reason=stop.reason, iterations=self._turns, stop=stop.at)
        await self._services.calls.finish_node(self._task.node)
        self._services.events.emit(
            RLMFinished(
                node=self._task.node,
                answer=answered.answer,
                stop_reason=answered.stop_reason,
                iterations=answered.iterations,
            )
        )
        return answered

    async def number_context(self) -> None:
        """Let the first context have the name that it has among several."""
        await self._repl.name("context_0", "context")

    async def ask(self, query: str, context: Value | None) -> None:
        """Put a further question to the RLM, which `answer` then answers from what it has, and from a further context.

        Raises:
            ConfigError: the context cannot be built in a sandbox; nothing has been asked.
            SandboxError: sandboxes cannot be started, or were lost time and again.
        """
        name = f"context_{self._contexts}"
        loaded: LoadedValue | None = None
        if context is not None:
            loaded = await self._repl.load(name, context, grow=True)
            if loaded is None:
                raise ConfigError(f"The sandbox has no room for `{name}`, {context.size:,} bytes: give less.")
            await self._repl.name("context", name)
            self._contexts += 1
        kept = await self._load_history()
        await self._repl.name("answer", NO_ANSWER)  # that of the question before would end the first turn
        self._turns = 0
        limits = self._services.limits
        seen = observation(self._unseen, limit=limits.max_output_chars) if self._unseen else ""
        question = prompts.next_question(
            query=query,
            name=name if loaded else None,
            context_type=loaded.type if loaded else "",
            context_size=loaded.size if loaded else 0,
            turns=limits.max_iterations,
            history=kept,
            variables=self._repl.restored,
        )
        self._transcript = self._transcript.ask(seen, question)

    async def _work(self) -> str:
        limits = self._services.limits
        errors = 0
        while limits.max_iterations is None or self._turns < limits.max_iterations:
            await self._services.control.wait_if_paused()
            self._turns += 1
            self._services.events.emit(TurnStarted(node=self._task.node, turn=self._turns, of=limits.max_iterations))
            try:
                if self._window.nearly_full(self._transcript):
                    await self._compact(self._window)
                turn, cut_off = await self._ask()
            except BudgetExceeded as refused:
                before = replace(self._here(refused.reason), requests=self._requests - 1)
                raise _Stop(refused.reason, str(refused), at=before) from refused
            results = [await self._run(cell) for cell in turn.cells]
            answer = await self._answer_in(turn, results)
            self._unseen = results
            if answer is not None:
                return answer
            succeeded = any(result.outcome == "ok" for result in results)
            errors = 0 if succeeded else errors + 1
            if limits.max_consecutive_errors is not None and errors >= limits.max_consecutive_errors:
                raise _Stop("max_consecutive_errors", f"{errors} turns in a row did not run any code without an error")
            self._show(turn, results, cut_off=cut_off)
        raise _Stop("max_iterations", f"all {limits.max_iterations} turns are used")

    async def _ask(self, *, last: bool = False) -> tuple[Turn, bool]:
        """The model's next reply: what it asks for, and whether it was cut off."""
        if self._task.level == 0:
            said_last = (*self._transcript.messages, LAST_TURN_ROOM)
            self._services.calls.accounting.reserve_last_turn(self._task.model, said_last)
        try:
            reply = await self._reply(self._transcript, last=last)
        except ContextTooLong:
            window = self._window.after_overflow()
            if last or not window.worth_compacting(self._transcript):
                raise
            await self._compact(window)
            reply = await self._reply(self._transcript)
        if reply.text:  # else it was cut off before its first word
            self._transcript = self._transcript.reply(reply.text)
        self._window = self._window.after(reply.usage, self._transcript)
        cut_off = reply.finish_reason == "length"
        return parse(reply.text, cut_off=cut_off), cut_off

    async def _reply(self, transcript: Transcript, *, last: bool = False) -> ModelReply:
        await self._stop_where_recorded()
        task = self._task
        self._requests += 1
        reply = await self._services.calls.complete(
            task.model, transcript.messages, node=task.node, ordinal=self._requests, role="root", last=last
        )
        self._replies += 1
        return reply

    async def _run(self, cell: str, *, calls: bool = True) -> CellResult:
        await self._stop_where_recorded()
        result = await self._repl.run(cell, calls=calls)
        self._cells += 1
        return result

    def _here(self, reason: StopReason) -> StopPoint:
        return StopPoint(
            reason=reason,
            replies=self._replies,
            cells=self._cells,
            requests=self._requests,
            queries=self._services.calls.replay.queries.latest(self._task.node),
        )

    async def _stop_where_recorded(self) -> None:
        at = self._stop_at
        if at is not None and (at.replies, at.cells) == (self._replies, self._cells):
            self._stop_at = None
            self._requests = at.requests
            await self._services.calls.mark_cut_off(self._task.node, requests=at.requests, queries=at.queries)
            raise _Stop(at.reason, SENTENCES[at.reason], at=at)

    async def _compact(self, window: ContextWindow) -> None:
        """Put a summary by the model in place of the older turns; all of them stay readable in the REPL."""
        chars = window.section_chars
        try:
            reply = await self._reply(self._transcript.older(chars).say(prompts.SUMMARIZE))
            summary = fenced(clip(reply.text, chars)) if reply.text else prompts.NO_SUMMARY
        except ContextTooLong:
            summary = prompts.NO_SUMMARY
        kept = await self._load_history()
        variables = await self._run("SHOW_VARS()", calls=False)
        messages = len(self._transcript.history)
        note = prompts.compaction_message(
            summary=summary, variables=describe(variables, limit=chars // 2), messages=messages, kept=kept
        )
        self._transcript = self._transcript.compact(note, keep_chars=chars)
        self._services.events.emit(Compacted(node=self._task.node, messages=messages, summary=summary))

    async def _load_history(self) -> bool:
        """Put the whole conversation into the REPL, as `history`; False where it has no memory for it."""
        messages = [{"role": message.role, "content": message.content} for message in self._transcript.history]
        return await self._repl.load("history", encode(messages)) is not None

    async def _answer_in(self, turn: Turn, results: list[CellResult]) -> str | None:
        """The final answer that a turn gave: in a cell, or in its text where no unseen output stands beside it."""
        for result in reversed(results):
            if result.answer is not None:
                return result.answer
        match turn.final:
            case None:
                return None
            case final if final.kind == "variable":
                result = await self._run(f"FINAL_VAR({final.value!r})")
                results.append(result)
                return result.answer
            case final:
                return None if turn.cells else final.value

    def _show(self, turn: Turn, results: list[CellResult], *, cut_off: bool) -> None:
        limits = self._services.limits
        parts = [observation(results, limit=limits.max_output_chars)] if results else [prompts.NOTHING_TO_DO]
        if turn.cells and turn.final is not None and turn.final.kind == "text":
            parts.append(prompts.FINAL_BESIDE_CODE)
        if cut_off:
            parts.append(prompts.CUT_OFF)
        if limits.max_iterations is None or self._turns < limits.max_iterations:
            parts.append(prompts.turn_line(self._turns + 1, limits.max_iterations))
        self._transcript = self._transcript.say("\n\n".join(parts))

    async def _last_turn(self, stop: _Stop) -> str:
        """One more reply, after which whatever the model said is the answer; the root's is paid from the reserve."""
        self._services.events.emit(
            TurnStarted(node=self._task.node, turn=self._turns, of=self._services.limits.max_iterations)
        )
        request = prompts.last_turn_message(str(stop))
        whole = self._transcript.say(request)
        short = self._transcript.compact(prompts.LEFT_OUT, keep_chars=LAST_TURN_CHARS).say(request)
        is_root = self._task.level == 0
        try:
            try:
                self._transcript = whole
                turn, _ = await self._ask(last=is_root)
            except (BudgetExceeded, ContextTooLong):
                self._transcript = short
                turn, _ = await self._ask(last=is_root)
        except CallAbandoned:  # in the recorded run, by the time for this turn
            return ""
        except BudgetExceeded:
            if not is_root:
                raise
            return ""
        results = [await self._repl.run(cell, calls=False) for cell in turn.cells]
        answer = await self._answer_in(turn, results)
        self._unseen = results
        if answer is not None:
            return answer
        return turn.final.value if turn.final is not None else turn.prose


@asynccontextmanager
async def _open_repl(task: RLMTask, services: Services, broker: Broker) -> AsyncIterator[Repl]:
    repl = Repl(
        task=task,
        broker=broker,
        tools=_tools_of(task, services),
        sandbox_factory=services.sandbox_factory,
        run_id=services.run_id,
        cell_seconds=services.limits.cell_seconds,
        events=services.events,
    )
    async with repl:
        head, tail = ends_of(task.context, CONTEXT_END_CHARS) if task.level > 0 else ("", "")
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
