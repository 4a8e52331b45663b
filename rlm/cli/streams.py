"""The standard streams: a run outlives the reader of its progress, and diagnostics are sentences."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any, Final, TextIO, cast

STDOUT_FD: Final = 1
STDERR_FD: Final = 2


def harden_stdio() -> None:
    """Make writes to standard error never fail, reopen closed streams, and escape what an encoding cannot hold."""
    for descriptor, name in ((STDOUT_FD, "stdout"), (STDERR_FD, "stderr")):
        if getattr(sys, name) is None:  # closed: a file of the run must not get its descriptor
            os.dup2(os.open(os.devnull, os.O_RDONLY), descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, BestEffortStream):
        sys.stderr = cast(TextIO, BestEffortStream(sys.stderr))


def silence(stream: TextIO) -> None:
    """Discard pending and future writes to a stream whose reader is gone or whose disk is full."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_stderr_now(text: str) -> None:
    """Write to standard error from within a signal handler."""
    with suppress(OSError):
        os.write(STDERR_FD, text.encode())


class BestEffortStream:
    """A stream that discards its output after a failed write, instead of raising OSError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write and flush a text. Never raises OSError."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            silence(self._stream)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write lines, as `write` does."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing to do: `write` flushes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class SentenceFormatter(logging.Formatter):
    """Shows a record's advice, if it has one, instead of the event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        advice = getattr(record, "fields", {}).get("advice")
        return super().format(record) if advice is None else f"rlm: {advice}"
