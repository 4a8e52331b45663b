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

from . import prompts
from .broker import Answered, Broker, Task
from .budget import Refused
from .calls import Calls
from .compaction import Room, fitting
from .config import Limits
from .errors import ContextTooLong
from .events import Compacted, EventLog, RLMFinished, RLMStarted, ToolUsed, TurnStarted
from .logs import bound
from .models.base import Model
from .prompts import PromptFacts, SystemPrompt
from .repl import Repl
from .sandbox.base import SandboxFactory
from .sandbox.values import encode
from .slots import LevelSlots
from .tools import Tools, ToolUse
from .transcript import Transcript, Turn, clip, describe, fenced, observation, parse
from .types import CellResult, Message, ModelReply, StopReason

LAST_TURN_SECONDS: Final = 60.0  # for the answer with what there is, once a limit is reached
LAST_TURN_CHARS: Final = 1_000  # of the newest exchange, where the whole conversation does not fit into what is left
LAST_TURN_ROOM: Final = Message(role="user", content=" " * 5_000)  # the size of those, at most, and of the request


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the RLMs of a run share.

    `model_at` gives the model of a level, `by_name` the models that a call may ask for. `deadline` is on the event loop's
    clock: the time at which the run stops to work and answers with what it has.
    """

    limits: Limits
    calls: Calls
    events: EventLog
    slots: LevelSlots
    sandboxes: SandboxFactory
    run_id: str
    system_prompt: SystemPrompt
    model_at: Callable[[int], Model]
    by_name: Mapping[str, Model]
    deadline: float
    tools: Tools
    tools_for_children: bool


class _Stop(Exception):
    """A limit ends the work of this RLM; its last turn follows."""

    def __init__(self, reason: StopReason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason: StopReason = reason


async def rlm_loop(task: Task, services: Services) -> Answered:
    """Run one RLM to its answer.

    Raises:
        Refused: the run may start no further RLM.
        ModelError: the root model gives no usable reply.
        SandboxError: sandboxes cannot be started, or were lost time and again.
        ConfigError: the context cannot be built in a sandbox.
    """
    services.calls.budget.start_rlm()
    child = partial(rlm_loop, services=services)
    services = replace(services, limits=fitting(services.limits, task.model.context_window))
    below = services.model_at(task.level + 1)
    broker = Broker(
        task=task,
        below=below,
        by_name=services.by_name,
        calls=services.calls,
        child=child,
        events=services.events,
    )
    with bound(run=services.run_id, node=task.node):
        async with services.slots.hold(task.level), _open_repl(task, services, broker) as repl:
            first = prompts.first_message(
                query=task.query,
                context_type=repl.context.type,
                context_size=repl.context.size,
                turns=services.limits.max_iterations,
            )
            rlm = _RLM(task, services, repl, Transcript.begin(system_prompt_of(task, services), first))
            answered = await rlm.run()
    services.events.emit(
        RLMFinished(
            node=task.node,
            answer=answered.answer,
            stop_reason=answered.stop_reason,
            iterations=answered.iterations,
        )
    )
    return answered


def _tools_of(task: Task, services: Services) -> Tools:
    """The functions of the host that an RLM's cells may call; those of children are the caller's decision."""
    if task.level > 0 and not services.tools_for_children:
        return Tools({})

    def record(use: ToolUse) -> None:
        services.events.emit(
            ToolUsed(node=task.node, tool=use.name, arguments=use.arguments, ok=use.ok, seconds=use.seconds)
        )

    return services.tools.told(record)


def system_prompt_of(task: Task, services: Services) -> str:
    """What the model of an RLM is told first."""
    facts = PromptFacts(
        model=task.model.name,
        sub_model=services.model_at(task.level + 1).name,
        models=tuple(services.by_name),
        level=task.level,
        depth=task.depth,
        limits=services.limits,
        tools=tuple(_tools_of(task, services).descriptions.values()),
    )
    return services.system_prompt(facts)


class _RLM:
    """The turns of one RLM."""

    def __init__(self, task: Task, services: Services, repl: Repl, transcript: Transcript) -> None:
        self._task = task
        self._services = services
        self._repl = repl
        self._transcript = transcript
        self._room = Room(window=task.model.context_window)
        self._turns = 0
        self._asked = 0

    async def run(self) -> Answered:
        stop = _Stop("deadline", "the time of the run is used up")
        with anyio.CancelScope(deadline=self._services.deadline):
            try:
                return Answered(answer=await self._work(), stop_reason="final", iterations=self._turns)
            except _Stop as limit:
                stop = limit
        answer = ""
        with anyio.move_on_after(LAST_TURN_SECONDS):
            answer = await self._last_turn(stop)
        return Answered(answer=answer, stop_reason=stop.reason, iterations=self._turns)

    async def _work(self) -> str:
        limits = self._services.limits
        errors = 0
        while self._turns < limits.max_iterations:
            self._turns += 1
            self._services.events.emit(TurnStarted(node=self._task.node, turn=self._turns, of=limits.max_iterations))
            try:
                if self._room.is_short(self._transcript):
                    await self._compact(self._room)
                turn, cut_off = await self._ask()
            except Refused as refused:
                raise _Stop(refused.reason, str(refused)) from refused
            results = [await self._repl.run(cell) for cell in turn.cells]
            answer = await self._answer_in(turn, results)
            if answer is not None:
                return answer
            succeeded = any(result.outcome == "ok" for result in results)
            errors = 0 if succeeded else errors + 1
            if limits.max_consecutive_errors is not None and errors >= limits.max_consecutive_errors:
                raise _Stop("errors", f"{errors} turns in a row did not run any code without an error")
            self._show(turn, results, cut_off=cut_off)
        raise _Stop("max_iterations", f"all {limits.max_iterations} turns are used")

    async def _ask(self, *, last: bool = False) -> tuple[Turn, bool]:
        """The model's next reply: what it asks for, and whether it was cut off."""
        if self._task.level == 0:
            kept = self._services.calls.estimate(self._task.model, (*self._transcript.messages, LAST_TURN_ROOM))
            self._services.calls.budget.keep_for_last_turn(kept)
        try:
            reply = await self._reply(self._transcript, last=last)
        except ContextTooLong:
            room = self._room.refused()
            if last or not room.can_gain(self._transcript):
                raise
            await self._compact(room)
            reply = await self._reply(self._transcript)
        self._room = self._room.after(reply.usage)
        self._transcript = self._transcript.reply(reply.text)
        cut_off = reply.finish_reason == "length"
        return parse(reply.text, cut_off=cut_off), cut_off

    async def _reply(self, transcript: Transcript, *, last: bool = False) -> ModelReply:
        task = self._task
        self._asked += 1
        return await self._services.calls.complete(
            task.model, transcript.messages, node=task.node, ordinal=self._asked, role="root", last=last
        )

    async def _compact(self, room: Room) -> None:
        """Put a summary by the model in place of the older turns; all of them stay readable in the REPL."""
        chars = room.part_chars
        try:
            reply = await self._reply(self._transcript.older(chars).say(prompts.SUMMARIZE))
            summary = fenced(clip(reply.text, chars))
        except ContextTooLong:
            summary = prompts.NO_SUMMARY
        history = self._transcript.history
        loaded = await self._repl.load(
            "history", encode([{"role": message.role, "content": message.content} for message in history])
        )
        variables = await self._repl.run("SHOW_VARS()", calls=False)
        note = prompts.compaction_message(
            summary=summary, variables=describe(variables, limit=chars // 2), messages=len(history), kept=loaded
        )
        self._transcript = self._transcript.compact(note, keep_chars=chars)
        self._services.events.emit(Compacted(node=self._task.node, messages=len(history), summary=summary))

    async def _answer_in(self, turn: Turn, results: list[CellResult]) -> str | None:
        """The final answer that a turn gave: in a cell, or in its text where no unseen output stands beside it."""
        for result in reversed(results):
            if result.answer is not None:
                return result.answer
        match turn.final:
            case None:
                return None
            case final if final.kind == "variable":
                result = await self._repl.run(f"FINAL_VAR({final.value!r})")
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
        if self._turns < limits.max_iterations:
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
            except (Refused, ContextTooLong):
                self._transcript = short
                turn, _ = await self._ask(last=is_root)
        except Refused:
            if not is_root:
                raise
            return ""
        results = [await self._repl.run(cell, calls=False) for cell in turn.cells]
        answer = await self._answer_in(turn, results)
        if answer is not None:
            return answer
        return turn.final.value if turn.final is not None else turn.prose


@asynccontextmanager
async def _open_repl(task: Task, services: Services, broker: Broker) -> AsyncIterator[Repl]:
    repl = Repl(
        task=task,
        broker=broker,
        tools=_tools_of(task, services),
        sandboxes=services.sandboxes,
        run_id=services.run_id,
        cell_seconds=services.limits.cell_seconds,
        events=services.events,
    )
    async with repl:
        services.events.emit(
            RLMStarted(
                node=task.node,
                level=task.level,
                depth=task.depth,
                model=task.model.name,
                sandbox=repl.sandbox_id,
                context_type=repl.context.type,
                context_size=repl.context.size,
            )
        )
        yield repl
