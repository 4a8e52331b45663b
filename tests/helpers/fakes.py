"""An RLM's services in memory: without files, threads, containers and network."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

from rlm.calls.accounting import Accounting
from rlm.calls.gateway import Calls
from rlm.config import Limits
from rlm.events import Event
from rlm.loop.control import RunControl
from rlm.loop.services import Services
from rlm.models.base import Model
from rlm.prompts import default_system_prompt
from rlm.sandbox.slots import LevelSlots
from rlm.sandbox.tools import Tools
from rlm.store.event_log import EventLog
from rlm.store.journal import Journal
from rlm.store.replay import Replay
from rlm.testing import FakeSandboxes

journals: list[Journal] = []  # open ones; conftest.py closes them after each test


class _LoopExecutor(Executor):
    """Runs work on the event loop, a moment later: without a thread, tests may run in virtual time."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def act() -> None:
            try:
                future.set_result(work(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        asyncio.get_running_loop().call_soon(act)
        return future


def memory_journal() -> Journal:
    """A journal in memory, without a thread. It is closed after the test."""
    journal = Journal()
    journal.database._thread.shutdown()
    journal.database._thread = _LoopExecutor()  # type: ignore[assignment]
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
    """An RLM's services. `models` serve the levels from the root down; the last one serves all further levels."""
    limits = replace(limits or Limits(), max_seconds=seconds)
    control = RunControl(limits)
    control._start_clock()
    journal = memory_journal()
    events = EventLog("run", io.StringIO(), [seen.append] if seen is not None else [])
    return Services(
        limits=limits,
        calls=Calls(
            accounting=Accounting(limits),
            replay=Replay(journal),
            max_concurrent=limits.max_concurrent_calls,
            events=events,
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
