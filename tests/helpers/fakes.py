"""In-memory stand-ins for what unit tests may not touch."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from rlm.calls.budget import Budget
from rlm.calls.gateway import Calls
from rlm.config import Limits
from rlm.events import Event
from rlm.loop.control import RunControl
from rlm.loop.rlm import Services
from rlm.models.base import Model
from rlm.prompts import default_system_prompt
from rlm.sandbox.base import Answer, LoadedValue, OnOutput
from rlm.sandbox.slots import LevelSlots
from rlm.sandbox.tools import Tools
from rlm.sandbox.values import Value
from rlm.store.event_log import EventLog
from rlm.store.journal import Journal
from rlm.store.replay import Replay
from rlm.types import CellResult

journals: list[Journal] = []  # of `services`; closed after each test (conftest.py)

Behaviour = Callable[[str, Answer | None], Awaitable[CellResult]]


async def says_ok(code: str, answer: Answer | None) -> CellResult:
    """A cell that prints its own code; `FINAL: x` answers x."""
    final = code.removeprefix("FINAL: ") if code.startswith("FINAL: ") else None
    return CellResult(outcome="ok", stdout=code, answer=final)


@dataclass
class FakeSandbox:
    """Runs cells by calling a function; counts what is alive."""

    id: str
    behaviour: Behaviour
    loaded: dict[str, Value] = field(default_factory=dict)
    tools: Tools | None = None

    async def load(self, name: str, value: Value) -> LoadedValue:
        self.loaded[name] = value
        return LoadedValue(type="str", size=value.size)

    async def offer(self, tools: Tools) -> None:
        self.tools = tools

    async def run(
        self,
        code: str,
        *,
        seconds: float | None = None,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        return await self.behaviour(code, answer)


class FakeSandboxes:
    """A SandboxFactory of FakeSandboxes. `most` were alive at once; `latency` is the seconds that a start takes."""

    def __init__(self, behaviour: Behaviour = says_ok, *, latency: float = 0.0) -> None:
        self.behaviour = behaviour
        self.latency = latency
        self.started: list[tuple[str, int]] = []
        self.made: list[FakeSandbox] = []
        self.alive = self.most = 0

    @asynccontextmanager
    async def __call__(self, *, run_id: str, node: str, depth: int, context_bytes: int) -> AsyncIterator[FakeSandbox]:
        self.started.append((node, depth))
        self.alive += 1
        self.most = max(self.most, self.alive)
        try:
            await anyio.sleep(self.latency)
            self.made.append(FakeSandbox(id=f"sandbox-{len(self.started)}", behaviour=self.behaviour))
            yield self.made[-1]
        finally:
            self.alive -= 1


class _OnTheLoop(Executor):
    """Does everything on the event loop, a moment later: no thread, so that tests may run in virtual time."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()

        def act() -> None:
            try:
                done.set_result(work(*args, **kwargs))
            except Exception as error:
                done.set_exception(error)

        asyncio.get_running_loop().call_soon(act)
        return done


def memory_journal() -> Journal:
    """A journal in memory without a thread; closed after the test."""
    journal = Journal()
    journal.database._thread.shutdown()
    journal.database._thread = _OnTheLoop()  # type: ignore[assignment]
    journals.append(journal)
    return journal


def services(
    *models: Model,
    limits: Limits | None = None,
    sandbox_factory: FakeSandboxes | None = None,
    seen: list[Event] | None = None,
    seconds: float | None = None,
    slots: LevelSlots | None = None,
    tools: Mapping[str, Callable[..., object]] | None = None,
) -> Services:
    """What an RLM needs, in memory. `models` serve the levels from the root down, the last one all further levels."""
    limits = replace(limits or Limits(), max_seconds=seconds)
    control = RunControl(limits)
    control._start()
    journal = memory_journal()
    events = EventLog("run", io.StringIO(), [seen.append] if seen is not None else [])
    return Services(
        limits=limits,
        calls=Calls(
            budget=Budget(limits), replay=Replay(journal), max_concurrent=limits.max_concurrent_calls, events=events
        ),
        events=events,
        slots=slots or LevelSlots(slots=8, levels=4),
        sandbox_factory=sandbox_factory or FakeSandboxes(),
        run_id="run",
        system_prompt=default_system_prompt,
        model_at=lambda level: models[min(level, len(models) - 1)],
        by_name={model.name: model for model in models},
        control=control,
        tools=Tools(tools or {}),
        tools_for_children=False,
    )
