"""The handle of a started run: its events, its answer, and its controls."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal

from rlm._util.portal import STOP_SECONDS, collect_notes
from rlm.config import Limits
from rlm.errors import RunCancelled
from rlm.events import Event
from rlm.loop.control import RunControl
from rlm.types import Completion

MAX_QUEUED_EVENTS: Final = 100_000  # unread events; older ones leave the queue, but stay in events.jsonl

Work = Callable[[RunControl, Callable[[Event], None]], Awaitable[Completion]]


class Run:
    """A run in a separate thread, from `Orchestrator.start()`:

        with orchestrator.start(context, query) as run:
            for event in run:
                ...
            print(run.result().answer)

    `async with`, `async for` and `await run` do the same on an event loop. Each event is delivered once. Leaving the
    block cancels an unfinished run. All methods are thread-safe, and may be called from an `on_event` callback.
    """

    def __init__(
        self, work: Work, control: RunControl, *, portal: Callable[[], AbstractContextManager[BlockingPortal]]
    ) -> None:
        self._control = control
        self._events: deque[Event] = deque(maxlen=MAX_QUEUED_EVENTS)
        self._wakers: deque[Callable[[], object]] = deque()
        self._ended = threading.Event()
        self._thread = 0
        self._notes: list[str] = []
        self._resources = ExitStack()
        self._portal = self._resources.enter_context(portal())
        self._future: Future[Completion] = self._portal.start_task_soon(self._work, work)

    async def _work(self, work: Work) -> Completion:
        self._thread = threading.get_ident()
        collect_notes(self._notes)
        try:
            return await work(self._control, self._queue_event)
        finally:
            self._ended.set()
            self._wake()
            # An event loop cannot close its own portal, so a thread does it.
            threading.Thread(target=self._resources.close, name="rlm-run-ends").start()

    # Events

    def _queue_event(self, event: Event) -> None:
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        while self._wakers:
            with contextlib.suppress(RuntimeError):  # that event loop is closed, so nothing waits there
                self._wakers.popleft()()

    def __iter__(self) -> Iterator[Event]:
        """Iterate over the events, from the start to the end of the run."""
        while True:
            wakeup = threading.Event()
            self._wakers.append(wakeup.set)
            done = self._ended.is_set()
            while self._events:
                yield self._events.popleft()
            if done:
                return
            if not self._ended.is_set():
                wakeup.wait()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """As `__iter__`, on an event loop."""
        while True:
            wakeup = asyncio.Event()
            self._wakers.append(partial(asyncio.get_running_loop().call_soon_threadsafe, wakeup.set))
            done = self._ended.is_set()
            while self._events:
                yield self._events.popleft()
            if done:
                return
            if not self._ended.is_set():
                await wakeup.wait()

    # Result

    @property
    def done(self) -> bool:
        """Whether the run has ended, successfully or not."""
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the answer.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            TimeoutError: the run has not ended yet.
            RunCancelled: the run was cancelled.
            RLMError: what `Orchestrator.completion` raises.
        """
        try:
            return self._future.result(timeout)
        except CancelledError:
            self._ended.wait(STOP_SECONDS)
            raise RunCancelled from None
        except KeyboardInterrupt as interrupt:
            self.cancel()
            self._ended.wait(STOP_SECONDS)
            for text in self._notes:
                interrupt.add_note(text)
            raise

    def __await__(self) -> Generator[Any, None, Completion]:
        return self._wait().__await__()

    async def _wait(self) -> Completion:
        try:
            return await asyncio.shield(asyncio.wrap_future(self._future))
        except asyncio.CancelledError:
            if not self._future.cancelled():
                raise
        await anyio.to_thread.run_sync(self._ended.wait, STOP_SECONDS)
        raise RunCancelled

    # Controls

    @property
    def limits(self) -> Limits:
        """The current limits."""
        return self._control.limits

    @property
    def seconds(self) -> float:
        """Seconds used of `max_seconds`, without pauses."""
        return self._control.seconds

    @property
    def paused(self) -> bool:
        """Whether RLMs wait before their next turn."""
        return self._control.paused

    def pause(self) -> None:
        """Keep RLMs from beginning another turn until `unpause`. Running turns finish. The clock of `max_seconds` stops."""
        self._control_in_loop(self._control.pause)

    def unpause(self) -> None:
        """Continue after `pause`."""
        self._control_in_loop(self._control.unpause)

    def answer_now(self) -> None:
        """Stop the work, and let the root answer in one last turn. `stop_reason` becomes `stopped`."""
        self._control_in_loop(self._control.answer_now)

    def raise_limit(self, **limits: float | None) -> None:
        """Raise `max_lm_calls`, `max_tokens`, `max_cost_usd` or `max_seconds`; None removes the limit.

        Raises:
            ConfigError: not one of these limits, or the new value is not higher.
        """
        self._control_in_loop(partial(self._control.raise_limit, **limits))

    def cancel(self) -> None:
        """End the run without an answer and remove its containers. It can be resumed."""
        self._future.cancel()

    def _control_in_loop(self, act: Callable[[], None]) -> None:
        if threading.get_ident() == self._thread:
            act()
            return
        try:
            self._portal.call(act)
        except RuntimeError:
            if not self._ended.is_set():
                raise

    def _stop(self) -> None:
        self.cancel()
        self._ended.wait(STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._stop)
