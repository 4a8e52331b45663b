"""An event loop whose clock jumps to the next timer instead of waiting, and which knows when nothing can happen any more."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import anyio


class Deadlock(Exception):
    """Every task waits, and there is no timer that could wake one."""


class _Selector(selectors.SelectSelector):
    """Advances the clock by the time that it is told to wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Sleeps take no time. Works for code without threads, sockets and processes."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._clock_resolution = 1e-3  # where a float has no finer steps, after months, the clock would never get there

    def time(self) -> float:
        return self._virtual.now


def run_virtually(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run to the end in virtual time. Raises Deadlock where it has no end."""
    return anyio.run(main, backend_options={"loop_factory": VirtualLoop})
