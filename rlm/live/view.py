"""A run on the terminal while it goes: a tree that is drawn anew as it changes, or lines where there is no terminal.

`async with live_view(run) as view:` and `view` is the listener of the run's events.
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

from .frame import Footer, Line, draw, look, summary
from .keys import Controls, Keys
from .lines import PlainView
from .meters import Meter, meters
from .tree import RunState

SUMMARY_ROWS: Final = 20  # of the tree, left on the terminal when all is over


AT_ONCE: Final = 1_000  # events that may wait for the next picture, which may be long in coming


class LiveView:
    """What is on the screen: the tree of a run, and the state of the keyboard. A listener for events, in any thread."""

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
        self._tree = RunState()
        self._waiting: deque[Event] = deque()
        self._lock = threading.Lock()  # over the tree: events come in one thread, pictures are taken in another

    def __call__(self, event: Event) -> None:
        self._waiting.append(event)
        if len(self._waiting) >= AT_ONCE:
            self._catch_up()

    def _catch_up(self) -> None:
        """Take in the events that wait: many at once cost a third of what they cost one by one."""
        with self._lock:
            while self._waiting:
                self._tree(self._waiting.popleft())

    def press(self, key: str) -> None:
        self._keys.press(key, self._totals())

    def paint(self, width: int, height: int) -> list[Line]:
        """The screen as it has to be now."""
        self._catch_up()
        now = self._clock()
        paused = self._controls.paused
        totals = self._totals()
        footer: Footer = self._keys.footer(totals) if self._has_keys else []
        with self._lock:
            picture = look(self._tree, totals, now=now, height=height, width=width, paused=paused, footer=len(footer))
        return draw(picture, self._console, width=width, height=height, footer=footer)

    def _totals(self) -> list[Meter]:
        with self._lock:
            return meters(self._tree, self._controls.limits, seconds=self._controls.seconds)

    def print_summary(self) -> None:
        """Leave the tree as it was at the end."""
        self._catch_up()
        totals = self._totals()
        with self._lock:
            if self._tree.started is None:
                return
            picture = look(self._tree, totals, now=self._clock(), height=SUMMARY_ROWS + 6, footer=0, with_cell=False)
        with suppress(OSError):  # the terminal is gone: there is nobody to tell
            for line in summary(picture, self._console.width):
                self._console.print(Segments([*line, Segment.line()]), end="")


@asynccontextmanager
async def live_view(controls: Controls, *, console: Console | None = None) -> AsyncIterator[OnEvent]:
    """A listener that shows a run on the terminal of `console` (standard error), where keys steer it, while this is open.

    Where `console` is no terminal, lines are printed as things happen, and there are no keys.
    """
    console = console or Console(stderr=True, highlight=False)
    if sys.platform == "win32" or not _is_screen(console):
        yield PlainView(console)
        return
    from .terminal import Terminal

    terminal = Terminal(console)
    view = LiveView(controls, console=console, has_keys=terminal.has_keys)
    try:
        with (
            logs_held_back(),
            terminal.minding_signals(),
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
def logs_held_back() -> Iterator[None]:
    """What the program's log says on a terminal comes after the picture, which would be drawn over it."""
    held = io.StringIO()
    handlers = [
        (handler, handler.stream)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream.isatty()
    ]
    for handler, _ in handlers:
        handler.setStream(held)
    try:
        yield
    finally:
        for handler, stream in handlers:
            handler.setStream(stream)
        if held.getvalue():
            handlers[0][1].write(held.getvalue())


def _is_screen(console: Console) -> bool:
    """Whether it can be drawn on; `is_terminal` alone is also true of a file where the environment asks for colours."""
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()
