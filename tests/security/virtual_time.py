"""An event loop whose clock jumps to the next deadline when nothing else is left to do: no test waits, and none hangs."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class Stuck(AssertionError):
    """Every task waits for something that cannot come, and no deadline would end that."""


class _Selector(selectors.DefaultSelector):
    """Never waits; what it would have waited is added to `now`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise Stuck
            self.now += max(timeout, 0.0)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._clock_resolution = 1e-3  # after a million virtual seconds a float has no finer steps to go

    def time(self) -> float:
        return self._virtual.now
