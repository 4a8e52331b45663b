"""The REPL of one RLM. Replaces a lost sandbox, and runs the cells again to restore its variables.

Imports sandbox, store and what is below.
"""

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

MAX_LOSSES: Final = 3  # sandboxes that one RLM may lose: further losses are unlikely to be accidents


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReplayableCell:
    """A cell whose variables persist, and the nodes of its queries."""

    code: str
    calls: bool
    queries: Sequence[str]
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostBinding:
    """A variable that the host bound to a value, or to the value of an expression (a str)."""

    name: str
    value: Value | str


class Repl:
    """Runs the cells of one RLM; an async context manager.

    A cell that loses its sandbox runs once more in a new one. All earlier cells run again there first, with the same
    answers to their queries. If the new sandbox is lost too, or an earlier cell ends differently, the result says so.

    Args:
        task: task of the RLM.
        broker: serves the cells' queries.
        tools: host functions that cells may call.
        sandbox_factory: makes the sandboxes.
        run_id: ID of the run, for the sandboxes.
        cell_seconds: time limit of each cell; None is no limit.
        events: receives cells and losses.

    Attributes:
        context: the guest's description of the context.
        restored: whether the current sandbox has the variables of all earlier cells.
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
        self._value_bytes = task.context.size  # total size of the values that the sandbox's memory must hold
        self._history: list[_ReplayableCell | _HostBinding] = []
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
        """The ID of the current sandbox."""
        return self._sandbox.id

    async def load(self, name: str, value: Value, *, grow: bool = False) -> LoadedValue | None:
        """Bind a variable to a value, also in later sandboxes. Returns None if the sandbox has no memory for it.

        Args:
            name: name of the variable.
            value: value to bind.
            grow: replace a sandbox that is too small with a larger one, and run the cells again there.

        Raises:
            SandboxError: sandboxes do not start, or were lost too often.
        """
        try:
            loaded = await self._sandbox.load(name, value)
        except SandboxError as error:
            await self._replace_lost(error)
            return await self.load(name, value, grow=grow)
        except ConfigError:
            if not grow:
                return None
            self._value_bytes += value.size
            self.restored = await self._renew()
            return await self.load(name, value)
        self._history.append(_HostBinding(name=name, value=value))
        return loaded

    async def bind(self, name: str, expression: str) -> None:
        """Bind a variable to the value of an expression, also in later sandboxes. Raises as `load` does."""
        binding = _HostBinding(name=name, value=expression)
        try:
            await self._apply(binding)
        except SandboxError as error:
            await self._replace_lost(error)
            await self._apply(binding)
        self._history.append(binding)

    async def run(self, code: str, *, calls: bool = True) -> CellResult:
        """Run a cell. If its second sandbox is lost too, the result says so.

        Args:
            code: Python source of the cell.
            calls: whether the cell may make queries.

        Raises:
            SandboxError: sandboxes do not start, or were lost too often.
        """
        node = self._task.node
        self._cells += 1
        self._events.emit(CellStarted(node=node, cell=self._cells, code=code))
        self._broker.begin_cell()
        try:
            result = await self._execute(code, calls=calls)
        except SandboxError as error:
            result = await self._retry(code, error, calls=calls)
        queries = await self._broker.end_cell()
        if result.outcome in ("ok", "error"):
            self._history.append(_ReplayableCell(code=code, calls=calls, queries=queries, outcome=result.outcome))
        self._events.emit(CellFinished(node=node, cell=self._cells, result=result))
        return result

    async def _open(self) -> None:
        """Start a sandbox with the context. If it dies before it has run anything, start a second one."""
        try:
            await self._start()
        except SandboxDied:
            await self._start()

    async def _start(self) -> None:
        try:
            self._sandbox = await self._stack.enter_async_context(
                self._sandbox_factory(
                    run_id=self._run_id,
                    node=self._task.node,
                    depth=self._task.depth,
                    context_bytes=self._value_bytes,
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

    async def _retry(self, code: str, error: SandboxError, *, calls: bool) -> CellResult:
        if not await self._replace_lost(error):
            return _lost_result(
                f"The sandbox was lost during this cell ({error}) and replaced by a new one", kept=False
            )
        self._broker.restart_cell()
        try:
            return await self._execute(code, calls=calls)
        except SandboxError as second:
            kept = await self._replace_lost(second)
            return _lost_result(
                f"The sandbox was lost during this cell, twice ({second}), and replaced by a new one", kept=kept
            )

    async def _replace_lost(self, error: SandboxError) -> bool:
        """Replace a lost sandbox. Returns whether the new one has all variables."""
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
        """Replace the sandbox. Returns whether the new one has all variables; if not, it has only the host's bindings."""
        await self._stack.aclose()
        await self._open()
        restored = await self._restore()
        if not restored:
            self._history = [step for step in self._history if isinstance(step, _HostBinding)]
            await self._stack.aclose()
            await self._open()
            await self._restore()
        return restored

    async def _restore(self) -> bool:
        """Repeat the history without new calls. Returns whether every step ended as before."""
        for step in self._history:
            try:
                match step:
                    case _HostBinding():
                        await self._apply(step)
                    case _ReplayableCell():
                        answer = self._broker.replay_answers(step.queries) if step.calls else None
                        result = await self._sandbox.run(step.code, seconds=self._cell_seconds, answer=answer)
                        if result.outcome != step.outcome:
                            return False
            except (SandboxError, ConfigError, NotRecorded):
                return False
        return True

    async def _apply(self, binding: _HostBinding) -> None:
        if isinstance(binding.value, str):
            result = await self._sandbox.run(f"{binding.name} = {binding.value}", seconds=self._cell_seconds)
            if result.outcome != "ok":
                raise SandboxMisbehaved(f"The sandbox did not bind `{binding.name}`.")
        else:
            await self._sandbox.load(binding.name, binding.value)


def _lost_result(sentence: str, *, kept: bool) -> CellResult:
    rest = "all variables are as they were before this cell" if kept else "only `context` is kept"
    return CellResult(outcome="lost", error=f"{sentence}: {rest}.")
