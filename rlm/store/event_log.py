"""A run's events on the disk and to its listeners."""

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
    """Stamps the events of one run and hands them to the JSONL file and the listeners, in order.

    `redact` takes secrets out of a text; nothing that is told or written has not gone through it. `seq` is the number of the
    latest event, where the run had some before.
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
        """A listener that raises ends the run: an observer that fails is the caller's bug, not to be hidden."""
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
                raise JournalError(f"The run's events cannot be written ({error.strerror}): make room.") from error
        for listener in self._listeners:
            listener(stamped)


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """The same data with every text redacted."""
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
    """One line of `events.jsonl`: ASCII, so that lone surrogates survive."""
    head = {"v": SCHEMA_VERSION, "type": type(event).__name__, "parent": event.parent}
    return json.dumps(head | _plain(event), default=_plain)


def _plain(value: Any) -> dict[str, object]:
    """The fields of a dataclass; `dataclasses.asdict` copies all that is in them, at several times the cost."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@contextmanager
def open_for_append(path: Path) -> Iterator[TextIO]:
    """A file for `EventLog`. Raises JournalError where there can be none."""
    try:
        file = path.open("a", encoding="ascii")
    except OSError as error:
        raise JournalError(f"The run's events cannot be written to {path} ({error.strerror}).") from error
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # a full disk, which was told when it was written to
            file.close()


def truncate_partial_line(path: Path) -> int:
    """Take away the last line if a crash cut it off; gives the number of lines. Raises JournalError."""
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
