"""Threads for functions of the host that nothing can stop: bounded, however often the wait for one is given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

import anyio.to_thread

POLL_SECONDS: Final = 0.02

T = TypeVar("T")


class Threads:
    """`most` at once, with those that nobody waits for any more."""

    def __init__(self, most: int) -> None:
        self._free = threading.Semaphore(most)
        self._waited_for = anyio.CapacityLimiter(most)

    async def run(self, call: Callable[[], T]) -> T:
        """Wait for a thread, and give what the call gives. Cancelled, it runs on, and its thread is taken until its end."""
        while not self._free.acquire(blocking=False):  # noqa: ASYNC110 - no thread has to wake a loop that may be gone
            await anyio.sleep(POLL_SECONDS)
        begun = threading.Lock()  # taken once: by the thread as it begins, or by a cancellation that was faster

        def work() -> T:
            if not begun.acquire(blocking=False):
                raise RuntimeError("nobody waits for it any more")
            try:
                return call()
            finally:
                self._free.release()

        try:
            return await anyio.to_thread.run_sync(work, limiter=self._waited_for, abandon_on_cancel=True)
        finally:
            if begun.acquire(blocking=False):
                self._free.release()
