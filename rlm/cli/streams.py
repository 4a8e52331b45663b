"""The standard streams: a run is not lost because nobody reads its progress any more, and diagnostics are sentences."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any, Final, TextIO, cast

OUT: Final = 1
ERROR: Final = 2


def mind_streams() -> None:
    """From here on standard error takes everything, whoever reads it; both streams are there, and what their encoding does
    not hold is written as escapes.
    """
    for descriptor, name in ((OUT, "stdout"), (ERROR, "stderr")):
        if getattr(sys, name) is None:  # closed: its number is not to become that of a file of the run
            os.dup2(os.open(os.devnull, os.O_RDONLY), descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, Unfailing):
        sys.stderr = cast(TextIO, Unfailing(sys.stderr))


def silence(stream: TextIO) -> None:
    """What is written there, and what waits to be, goes nowhere: its reader is gone, or its disk is full."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def tell_at_once(text: str) -> None:
    """On standard error, from within a signal handler."""
    with suppress(OSError):
        os.write(ERROR, text.encode())


class Unfailing:
    """A stream that is silenced when it cannot be written, where others raise OSError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            silence(self._stream)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """What was written has been flushed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Sentences(logging.Formatter):
    """Of a diagnostic that holds an advice, that alone; a program would want the event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        advice = getattr(record, "fields", {}).get("advice")
        return super().format(record) if advice is None else f"rlm: {advice}"
