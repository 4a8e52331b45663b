"""Sandboxes in memory: each cell calls your function. Imports the sandbox's interface only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from rlm.sandbox.base import Answer, LoadedValue, OnOutput
from rlm.sandbox.tools import Tools
from rlm.sandbox.values import Value
from rlm.types import CellResult

RunCell = Callable[[str, Answer | None], Awaitable[CellResult]]


async def echo_cell(code: str, answer: Answer | None) -> CellResult:
    """Print the cell's own code; the cell `FINAL: x` answers x."""
    final = code.removeprefix("FINAL: ") if code.startswith("FINAL: ") else None
    return CellResult(outcome="ok", stdout=code, answer=final)


@dataclass
class FakeSandbox:
    """One sandbox of `FakeSandboxes`. It runs no code, and calls no tool.

    Attributes:
        id: stands for the container's ID.
        run_cell: called for each cell with its code, and with the function that serves its queries.
        loaded: the variables that were bound, by name, still encoded.
        tools: the tools that cells may call; None until some are offered.
    """

    id: str
    run_cell: RunCell
    loaded: dict[str, Value] = field(default_factory=dict)
    tools: Tools | None = None

    async def load(self, name: str, value: Value) -> LoadedValue:
        """Keep the value in `loaded`."""
        self.loaded[name] = value
        return LoadedValue(type="str", size=value.size)

    async def offer(self, tools: Tools) -> None:
        """Keep the tools in `tools`."""
        self.tools = tools

    async def run(
        self,
        code: str,
        *,
        seconds: float | None = None,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Call `run_cell`. The time limit is ignored, and nothing is streamed.

        Raises:
            Exception: whatever `run_cell` raises.
        """
        return await self.run_cell(code, answer)


class FakeSandboxes:
    """A sandbox factory without Docker: `Orchestrator(sandbox_factory=FakeSandboxes())`.

    Args:
        run_cell: an async function of a cell's code and the function that serves its queries (None if it may make
            none). Returns a `CellResult`. To play a lost sandbox, raise `SandboxDied`.
        latency: seconds that each start takes.

    Attributes:
        started: node and depth of every sandbox, in the order of their starts.
        created: every sandbox that started, in order, whether or not it is still alive.
        alive: number of sandboxes alive now.
        peak_alive: maximum number of sandboxes alive at once.
    """

    def __init__(self, run_cell: RunCell = echo_cell, *, latency: float = 0.0) -> None:
        self.run_cell = run_cell
        self.latency = latency
        self.started: list[tuple[str, int]] = []
        self.created: list[FakeSandbox] = []
        self.alive = self.peak_alive = 0

    @asynccontextmanager
    async def __call__(self, *, run_id: str, node: str, depth: int, context_bytes: int) -> AsyncIterator[FakeSandbox]:
        """One sandbox, alive until the context ends."""
        self.started.append((node, depth))
        self.alive += 1
        self.peak_alive = max(self.peak_alive, self.alive)
        try:
            await anyio.sleep(self.latency)
            self.created.append(FakeSandbox(id=f"sandbox-{len(self.started)}", run_cell=self.run_cell))
            yield self.created[-1]
        finally:
            self.alive -= 1
