"""A bounded pool of threads, for host functions that nothing can interrupt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

import anyio.to_thread

POLL_SECONDS: Final = 0.02  # how often a call checks for a free thread

T = TypeVar("T")


class Threads:
    """Runs at most `size` calls at once. Calls whose caller was cancelled count until they return."""

    def __init__(self, size: int) -> None:
        self._free = threading.Semaphore(size)
        self._awaited = anyio.CapacityLimiter(size)

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread, once one is free. After a cancellation the call continues and keeps its thread."""
        while not self._free.acquire(blocking=False):  # noqa: ASYNC110 - the loop that an event would wake may be gone
            await anyio.sleep(POLL_SECONDS)
        claim = threading.Lock()  # acquired once: by the thread when it starts, or by a cancellation before that

        def work() -> T:
            if not claim.acquire(blocking=False):
                raise RuntimeError("the call was cancelled before it started")
            try:
                return call()
            finally:
                self._free.release()

        try:
            return await anyio.to_thread.run_sync(work, limiter=self._awaited, abandon_on_cancel=True)
        finally:
            if claim.acquire(blocking=False):
                self._free.release()
