"""The terminal under the live view: its modes, its keys, and the one thread that uses it. POSIX only.

The terminal is restored at the end, on an exception, at SIGTERM, and while the program is suspended (Ctrl-Z). In the
background the view draws nothing and reads no key.
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

TTY: Final = "/dev/tty"  # the controlling terminal: works with standard input from a pipe
MIN_FRAME_SECONDS: Final = 0.2  # minimum time between two frames; a key redraws at once
MAX_FRAME_SECONDS: Final = 1.0  # maximum time between two frames, even after a slow one (highlighting a new cell)
FRAME_SHARE: Final = 0.008  # share of one core for drawing: a slow frame delays the next
BACKGROUND_SECONDS: Final = 0.5  # time between two checks for the return to the foreground
REPAINT_SECONDS: Final = 2.0  # time between full repaints: another program may have written to the terminal
RESTORE_SCREEN: Final = b"\x1b[?1049l\x1b[?25h"  # leave the alternate screen, show the cursor

_WAKE, _SUSPEND, _CONTINUED = b"w", b"z", b"c"


def pause_after(seconds: float) -> float:
    """The delay before the next frame, after one that took `seconds`."""
    return min(MAX_FRAME_SECONDS, max(MIN_FRAME_SECONDS, seconds / FRAME_SHARE))


class View(Protocol):
    """The content of the screen."""

    def paint(self, width: int, height: int) -> list[Line]:
        """The current lines for a screen of this size."""
        ...

    def press(self, key: str) -> None:
        """Handle a key."""
        ...


class Terminal:
    """Draws frames and reads keys in the thread that calls `run`. Without a controlling terminal it reads no keys."""

    def __init__(self, console: Console, *, path: str = TTY) -> None:
        self._console = console
        self._fd = _open(path)
        self._saved = None if self._fd is None else termios.tcgetattr(self._fd)
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._stopping = False
        self._acquired = False  # whether the terminal is in our modes, and so must be restored
        self._modes_current = False  # whether no other program can have changed the modes since then
        self._suspending = False  # whether the terminal is restored and SIGTSTP is about to stop this process
        self._signals = False
        self._painted: list[Line] = []
        self._size = (0, 0)
        self._repaint_at = 0.0

    @property
    def has_keys(self) -> bool:
        """Whether keys can be read: a controlling terminal exists."""
        return self._fd is not None

    def run(self, view: View) -> None:
        """Draw and read until `stop`, or until the terminal is gone: the run continues without it."""
        with suppress(OSError, termios.error):
            try:
                while not self._stopping:
                    self._step(view)
            finally:
                self._restore()

    def stop(self) -> None:
        """Make `run` return; callable from any thread."""
        self._stopping = True
        self._wake(_WAKE)

    def close(self) -> None:
        """Close the descriptors, after `run` has returned."""
        for fd in (self._wake_reader, self._wake_writer, self._fd):
            if fd is not None:
                os.close(fd)

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Restore the terminal when a signal suspends or ends the program.

        Python handles signals in the main thread only: in another one, Ctrl-Z is disabled.
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

    # Signal handlers, in the main thread. They must not block: the main thread may hold a lock that drawing needs.

    def _on_suspend(self, number: int, frame: FrameType | None) -> None:
        if not self._suspending:
            self._wake(_SUSPEND)  # the drawing thread restores the terminal, then sends the signal again
            return
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # stops here until SIGCONT; no effect if no parent could send that
        signal.signal(number, self._on_suspend)
        self._suspending = False
        self._wake(_CONTINUED)

    def _on_continue(self, number: int, frame: FrameType | None) -> None:
        self._wake(_CONTINUED)

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        if self._acquired and self._fd is not None and self._saved is not None:
            os.write(self._fd, RESTORE_SCREEN)
            termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _wake(self, signal_byte: bytes) -> None:
        with suppress(BlockingIOError):  # the pipe is full: the thread wakes anyway
            os.write(self._wake_writer, signal_byte)

    # In the thread of `run`

    def _step(self, view: View) -> None:
        if self._suspending or not self._in_foreground():
            self._modes_current = False
            self._wait(BACKGROUND_SECONDS, view)
            return
        if not self._modes_current:
            self._acquire()
        began = time.thread_time()
        self._draw(view)
        self._wait(pause_after(time.thread_time() - began), view)

    def _in_foreground(self) -> bool:
        if self._fd is None:
            return True
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # not our controlling terminal: job control does not apply
            return True

    def _acquire(self) -> None:
        self._acquired = self._modes_current = True
        if self._fd is not None:
            tty.setcbreak(self._fd)
            if not self._signals:
                modes = termios.tcgetattr(self._fd)
                modes[6][termios.VSUSP] = b"\0"
                termios.tcsetattr(self._fd, termios.TCSANOW, modes)
        self._painted = []
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _restore(self) -> None:
        if not self._acquired or not self._in_foreground():
            return
        self._acquired = self._modes_current = False
        try:
            self._console.set_alt_screen(False)
            self._console.show_cursor(True)
        finally:
            if self._fd is not None and self._saved is not None:
                # Flush pending keys: they are not for the next program.
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._saved)

    def _draw(self, view: View) -> None:
        """Draw changed lines over the old ones: nothing is erased, so nothing flickers."""
        size = self._console.size if self._fd is None else os.get_terminal_size(self._fd)
        width, height = size[0] or 80, size[1] or 24  # a terminal of unknown size reports 0
        lines = view.paint(width, height)
        if (width, height) != self._size or time.monotonic() >= self._repaint_at:
            self._painted, self._size = [], (width, height)
            self._repaint_at = time.monotonic() + REPAINT_SECONDS
        changed = groupby(enumerate(zip_longest(lines, self._painted)), key=lambda each: each[1][0] != each[1][1])
        with self._console:
            for differs, block in changed:
                if differs:
                    first, *_ = numbers = [number for number, _ in block]
                    self._console.update_screen_lines(lines[first : numbers[-1] + 1], 0, first)
        self._painted = lines

    def _wait(self, seconds: float, view: View) -> None:
        """Wait for a key, a signal or the timeout."""
        sources = [self._wake_reader] + ([self._fd] if self._modes_current and self._fd is not None else [])
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._wake_reader in ready:
            signals = os.read(self._wake_reader, 100)
            if _CONTINUED in signals:  # the shell may have changed the modes
                self._modes_current = False
            elif _SUSPEND in signals:
                self._restore()
                self._suspending = True
                os.kill(os.getpid(), signal.SIGTSTP)
        elif self._fd in ready and self._fd is not None:
            data = os.read(self._fd, 100)
            if not data:
                raise OSError("The terminal was closed.")
            for key in split(data):
                view.press(key)


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
