"""The REPL of one RLM: a sandbox that is replaced when it is lost, with its variables, by running its cells again."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from .broker import Broker, NotRemembered, Task
from .errors import ConfigError, SandboxError
from .events import CellFinished, CellOutput, CellStarted, EventLog, SandboxLost
from .sandbox.base import LoadedValue, Sandbox, SandboxFactory
from .sandbox.values import Value
from .tools import Tools
from .types import CellResult, Outcome

MAX_LOSSES: Final = 3  # of one RLM's sandboxes that are made good; after that they are not accidents


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ran:
    """A cell that has left variables behind; `after` is the number of the latest query before it."""

    code: str
    calls: bool
    after: int
    outcome: Outcome


class Repl:
    """Runs the cells of one RLM; an async context manager.

    A cell during which the sandbox was lost runs once more in a new one, where the earlier cells have run again with the
    answers that they had got. If that is lost too, or the earlier cells do not do the same again, the model is told.

    Args:
        task: of the RLM.
        broker: serves the cells' queries.
        tools: functions of the host that cells may call.
        sandboxes, run_id: make its sandboxes.
        cell_seconds: of each cell.
        events: where cells and losses are told.
    """

    def __init__(
        self,
        *,
        task: Task,
        broker: Broker,
        tools: Tools,
        sandboxes: SandboxFactory,
        run_id: str,
        cell_seconds: float,
        events: EventLog,
    ) -> None:
        self._task = task
        self._broker = broker
        self._tools = tools
        self._sandboxes = sandboxes
        self._run_id = run_id
        self._cell_seconds = cell_seconds
        self._events = events
        self._stack = AsyncExitStack()
        self._cells = 0
        self._losses = 0
        self._ran: list[_Ran] = []
        self._values: dict[str, Value] = {}
        self._sandbox: Sandbox
        self.context: LoadedValue

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

    async def load(self, name: str, value: Value) -> bool:
        """Bind a variable, also in every sandbox that takes this one's place; False where it has no memory for it."""
        self._values[name] = value
        try:
            await self._sandbox.load(name, value)
        except SandboxError as error:
            await self._replace(error)
        except ConfigError:
            del self._values[name]
            return False
        return True

    async def run(self, code: str, *, calls: bool = True) -> CellResult:
        """Run a cell. A sandbox that is lost for good is told as a result.

        Raises:
            SandboxError: sandboxes were lost time and again, or none can be started.
        """
        node = self._task.node
        self._cells += 1
        self._events.emit(CellStarted(node=node, cell=self._cells, code=code))
        after = self._broker.latest
        try:
            result = await self._execute(code, calls=calls)
        except SandboxError as error:
            result = await self._run_again(code, error, calls=calls, after=after)
        await self._broker.end_cell()
        if result.outcome in ("ok", "error"):
            self._ran.append(_Ran(code=code, calls=calls, after=after, outcome=result.outcome))
        self._events.emit(CellFinished(node=node, cell=self._cells, result=result))
        return result

    async def _open(self) -> None:
        try:
            self._sandbox = await self._stack.enter_async_context(
                self._sandboxes(
                    run_id=self._run_id,
                    node=self._task.node,
                    depth=self._task.depth,
                    context_bytes=self._task.context.size,
                )
            )
            if self._tools:
                await self._sandbox.offer(self._tools)
            self.context = await self._sandbox.load("context", self._task.context)
            for name, value in self._values.items():
                await self._sandbox.load(name, value)
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

    async def _run_again(self, code: str, error: SandboxError, *, calls: bool, after: int) -> CellResult:
        if not await self._replace(error):
            return _lost(f"The sandbox was lost during this cell ({error}) and replaced by a new one", kept=False)
        self._broker.rewind(after)
        try:
            return await self._execute(code, calls=calls)
        except SandboxError as again:
            kept = await self._replace(again)
            return _lost(
                f"The sandbox was lost during this cell, twice ({again}), and replaced by a new one", kept=kept
            )

    async def _replace(self, error: SandboxError) -> bool:
        """Put a new sandbox in the place of a lost one; whether it has the variables too, or `context` alone."""
        self._losses += 1
        if self._losses > MAX_LOSSES:
            raise error
        lost, latest = self._sandbox.id, self._broker.latest
        await self._stack.aclose()
        await self._open()
        restored = await self._restore()
        if not restored:
            self._ran.clear()
            await self._stack.aclose()
            await self._open()
        self._broker.rewind(latest)
        self._events.emit(
            SandboxLost(
                node=self._task.node,
                sandbox=lost,
                reason=str(error),
                replacement=self._sandbox.id,
                restored=restored,
            )
        )
        return restored

    async def _restore(self) -> bool:
        """Run the earlier cells again, but for those that were undone; no call is paid. Whether all did the same again."""
        for cell in self._ran:
            self._broker.rewind(cell.after)
            answer = self._broker.recall if cell.calls else None
            try:
                result = await self._sandbox.run(cell.code, seconds=self._cell_seconds, answer=answer)
            except (SandboxError, NotRemembered):
                return False
            if result.outcome != cell.outcome:
                return False
        return True


def _lost(sentence: str, *, kept: bool) -> CellResult:
    rest = "all variables are as they were before this cell" if kept else "only `context` is kept"
    return CellResult(outcome="lost", error=f"{sentence}: {rest}.")
