"""An event loop whose clock jumps to the next timer instead of waiting. Imports nothing of rlm."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

CLOCK_RESOLUTION_SECONDS: Final = (
    1e-3  # coarse: after months, a float has no finer steps, and a timer would never be due
)

T = TypeVar("T")


class Deadlock(Exception):
    """Every task waits, and no timer is left to wake one."""


class _Selector(selectors.SelectSelector):
    """Advances the clock by the timeout instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Sleeps take no real time.

    The loop does not wait for threads, sockets or processes: use it for code without them.
    """

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._clock_resolution = CLOCK_RESOLUTION_SECONDS

    def time(self) -> float:
        """Virtual seconds since the loop was created."""
        return self._virtual.now


def run_virtually(main: Callable[[], Awaitable[T]]) -> T:
    """Run an async function to its end in virtual time, and return its result.

    Args:
        main: an async function without parameters, which uses no thread, socket or process.

    Raises:
        Deadlock: every task waits, and no timer is left to wake one.
    """
    return anyio.run(main, backend_options={"loop_factory": VirtualLoop})
