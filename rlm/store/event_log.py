"""Writes the events of a run to `events.jsonl`, and hands them to listeners."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rlm.errors import JournalError
from rlm.events import SCHEMA_VERSION, CellOutput, Event, OnEvent


class EventLog:
    """Numbers the events of one run, and passes them to the file and the listeners, in order.

    Args:
        run_id: ID of the run.
        file: receives one JSON object per line.
        listeners: called with every event.
        redact: removes secrets from a text. Applied to everything that is written or passed on.
        seq: number of the last event in the file.
    """

    def __init__(
        self,
        run_id: str,
        file: TextIO,
        listeners: Sequence[OnEvent],
        *,
        redact: Callable[[str], str] = str,
        seq: int = 0,
    ) -> None:
        self._run_id = run_id
        self._file = file
        self._listeners = listeners
        self._redact = redact
        self._seq = seq

    def emit(self, event: Event) -> None:
        """Record an event. A listener's exception ends the run: it is a bug of the caller.

        Raises:
            JournalError: the disk is full or failed.
        """
        recorded = not isinstance(event, CellOutput)
        self._seq += recorded
        stamped = dataclasses.replace(event, run_id=self._run_id, seq=self._seq, ts=time.time())
        line = to_json(stamped)
        if (clean := self._redact(line)) != line:
            stamped = _redacted(stamped, self._redact)
        if recorded:
            try:
                self._file.write(clean + "\n")
                self._file.flush()
            except OSError as error:
                raise JournalError(f"Cannot write the run's events ({error.strerror}): free some space.") from error
        for listener in self._listeners:
            listener(stamped)


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """A copy of the data with every text redacted."""
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {key: _redacted(item, redact) for key, item in value.items()}
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(value, **{name: _redacted(item, redact) for name, item in _plain(value).items()})
        case _:
            return value


def to_json(event: Event) -> str:
    """A line of `events.jsonl`: ASCII, so that lone surrogates survive."""
    head = {"v": SCHEMA_VERSION, "type": type(event).__name__, "parent": event.parent}
    return json.dumps(head | _plain(event), default=_plain)


def _plain(value: Any) -> dict[str, object]:
    """The fields of a dataclass. `dataclasses.asdict` would copy their contents, at several times the cost."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@contextmanager
def open_for_append(path: Path) -> Iterator[TextIO]:
    """Open a file for `EventLog`. Raises JournalError if that fails."""
    try:
        file = path.open("a", encoding="ascii")
    except OSError as error:
        raise JournalError(f"Cannot write the run's events to {path} ({error.strerror}).") from error
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # such as a full disk; `emit` has raised that already
            file.close()


def truncate_partial_line(path: Path) -> int:
    """Remove an incomplete last line, which a crash may leave. Returns the number of lines. Raises JournalError."""
    lines = size = 0
    if not path.exists():
        return 0
    try:
        with path.open("rb+") as file:
            for line in file:
                if line.endswith(b"\n"):
                    lines += 1
                    size += len(line)
            file.truncate(size)
    except OSError as error:
        raise JournalError(f"The run in {path.parent} is damaged: {path.name}: {error.strerror}.") from error
    return lines
