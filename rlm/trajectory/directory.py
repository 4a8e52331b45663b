"""Finds a run's directory and reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rlm.errors import ConfigError
from rlm.events import Event
from rlm.store.directory import default_root, find

from .extras import Extras, read_extras
from .reading import read_events
from .trajectory import Record, record_of

EVENTS: Final = "events.jsonl"


def find_run(name: str, root: Path | None = None) -> Path:
    """The directory of a run: a path, or the beginning of an id in a folder of runs (None: the default one).

    Raises:
        ConfigError: there is none, or there are several.
    """
    root = root or default_root()
    path = Path(name).parent if Path(name).name == EVENTS else Path(name)
    for directory in (path, find(path, root)):
        if (directory / EVENTS).is_file():
            return directory
    raise ConfigError(f"There is no run {name}: give its id, as in {root}, or the path of its directory.")


def read_run(directory: Path, context: Path | None = None, *, with_context: bool = True) -> tuple[Record, Extras]:
    """What there is of a run. `context` is the file that was its context, where the directory does not tell.

    Raises:
        ConfigError: its events or the named context cannot be read.
    """
    record = record_of(events_of(directory))
    return record, read_extras(directory, context, with_context=with_context)


def events_of(directory: Path) -> Iterator[Event]:
    """The events of a run, in their order.

    Raises:
        ConfigError: they cannot be read.
    """
    try:
        with (directory / EVENTS).open(encoding="ascii") as file:
            yield from read_events(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The events in {directory} cannot be read: {error}") from error
