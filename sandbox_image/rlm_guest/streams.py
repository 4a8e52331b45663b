"""The standard streams of the cells: the same objects for the whole life of a worker.

A cell may keep a stream: in a variable, a logging handler, or a partial of `print`. What it writes later belongs to the cell
that runs then. A thread belongs to the cell that started it, and so do the threads and tasks that it starts. After that
cell has ended, their output is dropped. This separates honest code only: any code can write to descriptor 1.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import io
import os
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

BUFFER_BYTES: Final = 8192  # as Python's own streams

# Bound early: cells could replace any name used later.
_write = os.write
_set_blocking = os.set_blocking
_ident = threading.get_ident

_MAIN_THREAD: Final = _ident()  # a fork keeps it
_cell_of_context: ContextVar[int | None] = ContextVar("cell", default=None)
_owner = _cell_of_context.get
_running_cell = 0  # 0 between two cells


def _cell_of_caller() -> int | None:
    """The cell that the calling code belongs to; None if it runs in a thread that C code started."""
    return _running_cell if _ident() == _MAIN_THREAD else _owner()


def _is_late() -> bool:
    """Whether the calling code belongs to a cell that has ended."""
    cell = _owner()
    return cell != _running_cell and cell is not None and _ident() != _MAIN_THREAD


def for_callers_cell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function belong to the cell that runs now, whichever thread calls it later."""
    cell = _cell_of_caller()

    def run(*args: object, **kwargs: object) -> object:
        token = _cell_of_context.set(cell)
        try:
            return function(*args, **kwargs)
        finally:
            _cell_of_context.reset(token)

    return run


def follow_threads() -> None:
    """Let each new thread belong to the cell of the thread that starts it. Call once, before any cell."""
    start = _thread.start_new_thread

    @functools.wraps(start)
    def start_new_thread(function: Callable[..., object], args: tuple[Any, ...], *kwargs: dict[str, Any]) -> int:
        cell = _cell_of_caller()

        def run(*args: object, **kwargs: object) -> None:
            _cell_of_context.set(cell)  # to the thread's end, when Python reports its exception
            function(*args, **kwargs)

        return start(run if callable(function) else function, args, *kwargs)

    _thread.start_new_thread = _thread.start_new = start_new_thread
    threading._start_new_thread = start_new_thread  # type: ignore[attr-defined]


def _send(descriptor: int, data: Any) -> None:
    """Write all of the data."""
    view = memoryview(data).cast("B")
    while view:
        try:
            view = view[_write(descriptor, view) :]
        except BlockingIOError:  # the cell has changed the descriptor, for asyncio perhaps
            _set_blocking(descriptor, True)


class Output(io.BufferedIOBase):
    """The binary stream behind `sys.stdout` or `sys.stderr`. Closing it only flushes it: later cells need it."""

    __slots__ = ("_descriptor", "_lock", "_pending", "mode", "name", "raw")

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()
        self.name = name
        self.mode = "wb"
        self.raw = io.FileIO(descriptor, "wb", closefd=False)
        self.renew_lock()

    def renew_lock(self) -> None:
        """A fork copies a lock that another thread held, but not the thread that would release it."""
        self._lock = threading.RLock()  # a signal handler may print while its thread prints

    def write(self, data: Any, /) -> int:
        """Take bytes, and send them at the end of a line or when many are pending."""
        if type(data) is not bytes:  # a memoryview, perhaps of larger items
            data = memoryview(data).tobytes()
        size = len(data)
        with self._lock:
            if _owner() != _running_cell and _is_late():
                return size
            if size < BUFFER_BYTES:
                self._pending += data
                if b"\n" in data or len(self._pending) >= BUFFER_BYTES:
                    self._drain()
            else:
                self._drain()
                _send(self._descriptor, data)
        return size

    def flush(self) -> None:
        with self._lock:
            if self._pending and (_owner() == _running_cell or not _is_late()):
                self._drain()

    def _drain(self) -> None:
        fresh = bytearray()
        pending, self._pending = self._pending, fresh  # without a call, so that no signal handler can run in between
        if pending:
            _send(self._descriptor, pending)

    def discard(self) -> None:
        """Drop what an earlier cell could not write."""
        with self._lock:
            self._pending.clear()

    def close(self) -> None:
        self.flush()

    def detach(self) -> Any:
        self.flush()
        return self.raw

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True


class Streams:
    """`sys.stdin`, `sys.stdout` and `sys.stderr` of the cells."""

    def __init__(self) -> None:
        self._cells = 0
        self._outputs = [Output(1, "<stdout>"), Output(2, "<stderr>")]
        self._texts = [io.TextIOWrapper(output) for output in self._outputs]
        os.register_at_fork(after_in_child=self._renew_locks)

    def _renew_locks(self) -> None:
        for output in self._outputs:
            output.renew_lock()

    def begin_cell(self) -> None:
        """Give the streams to a new cell, as they were for the first: cells may have replaced or changed them."""
        global _running_cell
        self._cells += 1
        _running_cell = self._cells
        _cell_of_context.set(_running_cell)
        sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8", "backslashreplace")  # type: ignore[misc]
        for index, output in enumerate(self._outputs):
            vars(output).clear()
            output.discard()
            vars(self._texts[index]).clear()
            try:
                _configure(self._texts[index])
            except ValueError:  # the cell has detached its buffer
                self._texts[index] = io.TextIOWrapper(output)
                _configure(self._texts[index])
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = self._texts  # type: ignore[misc]

    def end_cell(self) -> None:
        """Write what is pending. From now on, all threads of the cell write into nothing.

        Text that cannot be written, because the cell closed a descriptor, is dropped: it must not reach another cell.
        """
        global _running_cell
        _running_cell = 0
        for output in self._outputs:
            with contextlib.suppress(OSError):
                output.flush()


def _configure(text: io.TextIOWrapper) -> None:
    """Escape characters that cannot be encoded, and pass text on at once, so that it stays in order with bytes."""
    text.reconfigure(
        encoding="utf-8", errors="backslashreplace", newline=None, line_buffering=False, write_through=True
    )
