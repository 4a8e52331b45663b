"""The terminal while a run is shown on it: its modes, its keys, and the one thread that uses it. POSIX only.

Whoever stops the program gets the terminal back as it was: at the end, on an exception, at SIGTERM, and while the program is
suspended (Ctrl-Z). In the background nothing is drawn and no key is read.
"""

from __future__ import annotations

import os
import select
import signal
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby, zip_longest
from types import FrameType
from typing import Final, Protocol

from rich.console import Console

from .frame import Line
from .keys import split

TTY: Final = "/dev/tty"  # the controlling terminal: also where standard input is a pipe
FRAME_SECONDS: Final = 0.2  # between two pictures, at least; a key is answered at once
MAX_FRAME_SECONDS: Final = 1.0  # at most: the first of a new cell takes long, as its code is highlighted
FRAME_SHARE: Final = 0.008  # of the time may go into pictures: after a long one, the next waits for longer
AWAY_SECONDS: Final = 0.5  # until the next look whether the terminal is ours again
REPAINT_SECONDS: Final = 2.0  # after which all lines are drawn anew: something else may have written to the terminal
LEAVE: Final = b"\x1b[?1049l\x1b[?25h"  # the other screen, and the cursor

_WAKE, _SUSPEND, _CONTINUED = b"w", b"z", b"c"


def pause_after(seconds: float) -> float:
    """How long to wait after a picture that took so long."""
    return min(MAX_FRAME_SECONDS, max(FRAME_SECONDS, seconds / FRAME_SHARE))


class Shown(Protocol):
    """What is on the screen."""

    def paint(self, width: int, height: int) -> list[Line]:
        """The lines of a screen of this size, as they have to be now."""
        ...

    def press(self, key: str) -> None:
        """A key was pressed."""
        ...


class Terminal:
    """Draws pictures and reads keys, in the thread that calls `run`. Without a controlling terminal there are no keys."""

    def __init__(self, console: Console, *, path: str = TTY) -> None:
        self._console = console
        self._fd = _open(path)
        self._saved = None if self._fd is None else termios.tcgetattr(self._fd)
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._stopping = False
        self._taken = False  # it is in our modes, and has to be given back
        self._settled = False  # nobody else can have changed them since
        self._suspending = False  # the terminal has been given back, and SIGTSTP is about to stop us
        self._signals = False
        self._painted: list[Line] = []
        self._size = (0, 0)
        self._repaint_at = 0.0

    @property
    def has_keys(self) -> bool:
        return self._fd is not None

    def run(self, shown: Shown) -> None:
        """Draw and read until `stop`, or until the terminal is gone: the run goes on without it."""
        with suppress(OSError, termios.error):
            try:
                while not self._stopping:
                    self._step(shown)
            finally:
                self._give_back()

    def stop(self) -> None:
        """Let `run` return; from any thread."""
        self._stopping = True
        self._tell(_WAKE)

    def close(self) -> None:
        """After `run` has returned."""
        for fd in (self._woken, self._wake, self._fd):
            if fd is not None:
                os.close(fd)

    @contextmanager
    def minding_signals(self) -> Iterator[None]:
        """Give the terminal back when the program is suspended or ended by a signal. In other threads than the main one,
        Python has no signals: Ctrl-Z does nothing then.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal.SIGTSTP: self._on_suspend, signal.SIGCONT: self._on_continue, signal.SIGTERM: self._on_end}
        ours = {number: handler for number, handler in handlers.items() if signal.getsignal(number) == signal.SIG_DFL}
        for number, handler in ours.items():
            signal.signal(number, handler)
        self._signals = signal.SIGTSTP in ours
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, signal.SIG_DFL)

    # Signal handlers, in the main thread. They wait for nothing, as it may hold what the drawing thread waits for.

    def _on_suspend(self, number: int, frame: FrameType | None) -> None:
        if not self._suspending:
            self._tell(_SUSPEND)  # the signal comes again once the terminal has been given back
            return
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # stops here until SIGCONT, or does nothing where nobody could send that
        signal.signal(number, self._on_suspend)
        self._suspending = False
        self._tell(_CONTINUED)

    def _on_continue(self, number: int, frame: FrameType | None) -> None:
        self._tell(_CONTINUED)

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        if self._taken and self._fd is not None and self._saved is not None:
            os.write(self._fd, LEAVE)
            termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _tell(self, what: bytes) -> None:
        with suppress(BlockingIOError):  # it has been told often enough
            os.write(self._wake, what)

    # In the thread of `run`

    def _step(self, shown: Shown) -> None:
        if self._suspending or not self._in_foreground():
            self._settled = False
            self._wait(AWAY_SECONDS, shown)
            return
        if not self._settled:
            self._take()
        began = time.thread_time()
        self._draw(shown)
        self._wait(pause_after(time.thread_time() - began), shown)

    def _in_foreground(self) -> bool:
        if self._fd is None:
            return True
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # not our controlling terminal: nobody takes it from us
            return True

    def _take(self) -> None:
        self._taken = self._settled = True
        if self._fd is not None:
            tty.setcbreak(self._fd)
            if not self._signals:
                modes = termios.tcgetattr(self._fd)
                modes[6][termios.VSUSP] = b"\0"
                termios.tcsetattr(self._fd, termios.TCSANOW, modes)
        self._painted = []
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _give_back(self) -> None:
        if not self._taken or not self._in_foreground():
            return
        self._taken = self._settled = False
        try:
            self._console.set_alt_screen(False)
            self._console.show_cursor(True)
        finally:
            if self._fd is not None and self._saved is not None:
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._saved)  # keys for us are not for who comes after

    def _draw(self, shown: Shown) -> None:
        """Draw the lines that have changed, over the old ones: nothing is erased, so nothing flickers."""
        size = self._console.size if self._fd is None else os.get_terminal_size(self._fd)
        width, height = size[0] or 80, size[1] or 24  # a terminal that does not know its size says 0
        lines = shown.paint(width, height)
        if (width, height) != self._size or time.monotonic() >= self._repaint_at:
            self._painted, self._size = [], (width, height)
            self._repaint_at = time.monotonic() + REPAINT_SECONDS
        changed = groupby(enumerate(zip_longest(lines, self._painted)), key=lambda each: each[1][0] != each[1][1])
        with self._console:
            for differs, several in changed:
                if differs:
                    first, *_ = numbers = [number for number, _ in several]
                    self._console.update_screen_lines(lines[first : numbers[-1] + 1], 0, first)
        self._painted = lines

    def _wait(self, seconds: float, shown: Shown) -> None:
        """Until there was a key or a signal, or the time is over."""
        sources = [self._woken] + ([self._fd] if self._settled and self._fd is not None else [])
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._woken in ready:
            told = os.read(self._woken, 100)
            if _CONTINUED in told:  # the shell may have changed the modes
                self._settled = False
            elif _SUSPEND in told:
                self._give_back()
                self._suspending = True
                os.kill(os.getpid(), signal.SIGTSTP)
        elif self._fd in ready and self._fd is not None:
            data = os.read(self._fd, 100)
            if not data:
                raise OSError("The terminal has been closed.")
            for key in split(data):
                shown.press(key)


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
