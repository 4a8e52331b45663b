"""The live view: a call tree on a terminal, lines elsewhere.

`async with live_view(run) as view:` gives the listener for the run's events.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import anyio
from rich.console import Console
from rich.segment import Segment, Segments

from rlm.events import Event, OnEvent

from .frame import Footer, Line, draw, summary, take_snapshot
from .keys import Controls, Keys
from .lines import LineView
from .meters import Meter, meters
from .tree import RunState

SUMMARY_ROWS: Final = 20  # rows of the tree that stay on the terminal after the run
EVENT_BATCH: Final = 1_000  # events queued for the next frame: bounds the queue while no frame is drawn


class LiveView:
    """The screen of a run: its tree and its keyboard. Listens to events, in any thread."""

    def __init__(
        self,
        controls: Controls,
        *,
        console: Console,
        has_keys: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._controls = controls
        self._console = console
        self._has_keys = has_keys
        self._clock = clock
        self._keys = Keys(controls)
        self._state = RunState()
        self._queue: deque[Event] = deque()
        self._lock = threading.Lock()  # guards the state: one thread applies events, another draws

    def __call__(self, event: Event) -> None:
        self._queue.append(event)
        if len(self._queue) >= EVENT_BATCH:
            self._catch_up()

    def _catch_up(self) -> None:
        """Apply the queued events: a batch takes a third of the time that single events take."""
        with self._lock:
            while self._queue:
                self._state(self._queue.popleft())

    def press(self, key: str) -> None:
        """Act on a key."""
        self._keys.press(key, self._totals())

    def paint(self, width: int, height: int) -> list[Line]:
        """The current screen."""
        self._catch_up()
        now = self._clock()
        paused = self._controls.paused
        totals = self._totals()
        footer: Footer = self._keys.footer(totals) if self._has_keys else []
        with self._lock:
            snapshot = take_snapshot(
                self._state, totals, now=now, height=height, width=width, paused=paused, footer=len(footer)
            )
        return draw(snapshot, self._console, width=width, height=height, footer=footer)

    def _totals(self) -> list[Meter]:
        with self._lock:
            return meters(self._state, self._controls.limits, seconds=self._controls.seconds)

    def print_summary(self) -> None:
        """Print the final tree."""
        self._catch_up()
        totals = self._totals()
        with self._lock:
            if self._state.started is None:
                return
            snapshot = take_snapshot(
                self._state, totals, now=self._clock(), height=SUMMARY_ROWS + 6, footer=0, with_cell=False
            )
        with suppress(OSError):  # the terminal is gone, so nobody reads it
            for line in summary(snapshot, self._console.width):
                self._console.print(Segments([*line, Segment.line()]), end="")


@asynccontextmanager
async def live_view(controls: Controls, *, console: Console | None = None) -> AsyncIterator[OnEvent]:
    """A listener that shows a run on a terminal and lets keys control it. Off a terminal it prints lines; see `LineView`.

    Args:
        controls: the run that the keys act on.
        console: the console to draw on; None is standard error.
    """
    console = console or Console(stderr=True, highlight=False)
    if sys.platform == "win32" or not _is_screen(console):
        yield LineView(console)
        return
    from .terminal import Terminal

    terminal = Terminal(console)
    view = LiveView(controls, console=console, has_keys=terminal.has_keys)
    try:
        with (
            deferred_logs(),
            terminal.handling_signals(),
            ThreadPoolExecutor(1, thread_name_prefix="rlm-live") as thread,
        ):
            drawing = thread.submit(terminal.run, view)
            try:
                yield view
            finally:
                terminal.stop()
                with anyio.CancelScope(shield=True):
                    await asyncio.wrap_future(drawing)
    finally:
        terminal.close()
        view.print_summary()


@contextmanager
def deferred_logs() -> Iterator[None]:
    """Hold back log records for the terminal until the view has closed, because it would draw over them."""
    deferred = io.StringIO()
    handlers = [
        (handler, handler.stream)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream.isatty()
    ]
    for handler, _ in handlers:
        handler.setStream(deferred)
    try:
        yield
    finally:
        for handler, stream in handlers:
            handler.setStream(stream)
        if deferred.getvalue():
            handlers[0][1].write(deferred.getvalue())


def _is_screen(console: Console) -> bool:
    """Whether the console can draw a screen; `is_terminal` is also true for a file if the environment forces colours."""
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()
