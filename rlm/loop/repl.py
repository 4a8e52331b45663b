"""The REPL of one RLM: a sandbox that is replaced when it is lost, with its variables, by running its cells again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rlm.errors import ConfigError, SandboxDied, SandboxError, SandboxMisbehaved
from rlm.events import CellFinished, CellOutput, CellStarted, SandboxLost
from rlm.sandbox.base import LoadedValue, SandboxFactory, SandboxProtocol
from rlm.sandbox.session import MAX_CELL_SECONDS
from rlm.sandbox.tools import Tools
from rlm.sandbox.values import Value
from rlm.store.event_log import EventLog
from rlm.types import CellResult, Outcome

from .broker import Broker, NotRecorded
from .task import RLMTask

MAX_LOSSES: Final = 3  # of one RLM's sandboxes that are made good; after that they are not accidents


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReplayableCell:
    """A cell that has left variables behind, and the queries that it made."""

    code: str
    calls: bool
    asked: Sequence[str]
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostBinding:
    """A variable that the host has bound: to a value, or to that of an expression."""

    name: str
    value: Value | str


class Repl:
    """Runs the cells of one RLM; an async context manager.

    A cell during which the sandbox was lost runs once more in a new one, where the earlier cells have run again with the
    answers that they had got. If that is lost too, or the earlier cells do not do the same again, the model is told.

    Args:
        task: of the RLM.
        broker: serves the cells' queries.
        tools: functions of the host that cells may call.
        sandboxes, run_id: make its sandboxes.
        cell_seconds: of each cell; None is for as long as it likes.
        events: where cells and losses are told.

    Attributes:
        context: how the guest describes it.
        restored: whether the latest sandbox has the variables of all cells before it.
    """

    def __init__(
        self,
        *,
        task: RLMTask,
        broker: Broker,
        tools: Tools,
        sandbox_factory: SandboxFactory,
        run_id: str,
        cell_seconds: float | None,
        events: EventLog,
    ) -> None:
        self._task = task
        self._broker = broker
        self._tools = tools
        self._sandbox_factory = sandbox_factory
        self._run_id = run_id
        self._cell_seconds = MAX_CELL_SECONDS if cell_seconds is None else cell_seconds
        self._events = events
        self._stack = AsyncExitStack()
        self._cells = 0
        self._losses = 0
        self._bytes = task.context.size  # of the values that its memory is made for
        self._done: list[_ReplayableCell | _HostBinding] = []
        self._sandbox: SandboxProtocol
        self.context: LoadedValue
        self.restored = True

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def sandbox_id(self) -> str:
        return self._sandbox.id

    async def load(self, name: str, value: Value, *, grow: bool = False) -> LoadedValue | None:
        """Bind a variable, also in every sandbox that takes this one's place; None where it cannot be built there.

        Args:
            name: of the variable.
            value: of it.
            grow: where the sandbox has no memory for it, put one in its place that has, and run the cells again there.
        """
        try:
            loaded = await self._sandbox.load(name, value)
        except SandboxError as error:
            await self._replace(error)
            return await self.load(name, value, grow=grow)
        except ConfigError:
            if not grow:
                return None
            self._bytes += value.size
            self.restored = await self._renew()
            return await self.load(name, value)
        self._done.append(_HostBinding(name=name, value=value))
        return loaded

    async def name(self, name: str, expression: str) -> None:
        """Bind a variable to the value of an expression, such as another one that the host has bound."""
        bound = _HostBinding(name=name, value=expression)
        try:
            await self._bind(bound)
        except SandboxError as error:
            await self._replace(error)
            await self._bind(bound)
        self._done.append(bound)

    async def run(self, code: str, *, calls: bool = True) -> CellResult:
        """Run a cell. A sandbox that is lost for good is told as a result.

        Raises:
            SandboxError: sandboxes were lost time and again, or none can be started.
        """
        node = self._task.node
        self._cells += 1
        self._events.emit(CellStarted(node=node, cell=self._cells, code=code))
        self._broker.begin_cell()
        try:
            result = await self._execute(code, calls=calls)
        except SandboxError as error:
            result = await self._run_again(code, error, calls=calls)
        asked = await self._broker.end_cell()
        if result.outcome in ("ok", "error"):
            self._done.append(_ReplayableCell(code=code, calls=calls, asked=asked, outcome=result.outcome))
        self._events.emit(CellFinished(node=node, cell=self._cells, result=result))
        return result

    async def _open(self) -> None:
        """A sandbox with the context in it. One that is lost on the way has run nothing: another one is tried, once."""
        try:
            await self._make()
        except SandboxDied:
            await self._make()

    async def _make(self) -> None:
        try:
            self._sandbox = await self._stack.enter_async_context(
                self._sandbox_factory(
                    run_id=self._run_id,
                    node=self._task.node,
                    depth=self._task.depth,
                    context_bytes=self._bytes,
                )
            )
            if self._tools:
                await self._sandbox.offer(self._tools)
            self.context = await self._sandbox.load("context", self._task.context)
        except BaseException:
            await self._stack.aclose()
            raise

    async def _execute(self, code: str, *, calls: bool) -> CellResult:
        node, cell = self._task.node, self._cells
        return await self._sandbox.run(
            code,
            seconds=self._cell_seconds,
            answer=self._broker.answer if calls else None,
            on_output=lambda stream, text: self._events.emit(
                CellOutput(node=node, cell=cell, stream=stream, text=text)
            ),
        )

    async def _run_again(self, code: str, error: SandboxError, *, calls: bool) -> CellResult:
        if not await self._replace(error):
            return _lost(f"The sandbox was lost during this cell ({error}) and replaced by a new one", kept=False)
        self._broker.restart_cell()
        try:
            return await self._execute(code, calls=calls)
        except SandboxError as again:
            kept = await self._replace(again)
            return _lost(
                f"The sandbox was lost during this cell, twice ({again}), and replaced by a new one", kept=kept
            )

    async def _replace(self, error: SandboxError) -> bool:
        """Put a new sandbox in the place of a lost one; whether it has the cells' variables too."""
        self._losses += 1
        if self._losses > MAX_LOSSES:
            raise error
        lost = self._sandbox.id
        self.restored = await self._renew()
        self._events.emit(
            SandboxLost(
                node=self._task.node,
                sandbox=lost,
                reason=str(error),
                replacement=self._sandbox.id,
                restored=self.restored,
            )
        )
        return self.restored

    async def _renew(self) -> bool:
        """Put a new sandbox in the place of this one; whether it has the cells' variables too."""
        await self._stack.aclose()
        await self._open()
        restored = await self._restore()
        if not restored:
            self._done = [done for done in self._done if isinstance(done, _HostBinding)]
            await self._stack.aclose()
            await self._open()
            await self._restore()
        return restored

    async def _restore(self) -> bool:
        """Do again what was done, but for cells that were undone; no call is paid. Whether all came out the same."""
        for done in self._done:
            try:
                match done:
                    case _HostBinding():
                        await self._bind(done)
                    case _ReplayableCell():
                        answer = self._broker.replay_answers(done.asked) if done.calls else None
                        result = await self._sandbox.run(done.code, seconds=self._cell_seconds, answer=answer)
                        if result.outcome != done.outcome:
                            return False
            except (SandboxError, ConfigError, NotRecorded):
                return False
        return True

    async def _bind(self, bound: _HostBinding) -> None:
        if isinstance(bound.value, str):
            result = await self._sandbox.run(f"{bound.name} = {bound.value}", seconds=self._cell_seconds)
            if result.outcome != "ok":
                raise SandboxMisbehaved(f"The sandbox did not bind `{bound.name}`.")
        else:
            await self._sandbox.load(bound.name, bound.value)


def _lost(sentence: str, *, kept: bool) -> CellResult:
    rest = "all variables are as they were before this cell" if kept else "only `context` is kept"
    return CellResult(outcome="lost", error=f"{sentence}: {rest}.")
