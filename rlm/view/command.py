"""What `rlm view` does: finds runs, reads them, and writes the page of one or of two beside each other."""

from __future__ import annotations

import os
from pathlib import Path

from rlm.errors import ConfigError
from rlm.record import default_root

from .extras import Extras, read_extras
from .page import page
from .reading import read_events
from .record import Record, record_of

EVENTS = "events.jsonl"


def find_run(name: str, root: Path | None = None) -> Path:
    """The directory of a run: a path, or an id in a folder of runs (None: the default one).

    Raises:
        ConfigError: there is none.
    """
    root = root or default_root()
    for directory in (Path(name), Path(name).parent, root / name):
        if (directory / EVENTS).is_file() and (directory.name == Path(name).name or Path(name).name == EVENTS):
            return directory
    raise ConfigError(f"There is no run {name}: give its id, as in {root}, or the path of its directory.")


def read_run(directory: Path, context: Path | None = None) -> tuple[Record, Extras]:
    """What there is of a run.

    Raises:
        ConfigError: its events or the named context cannot be read.
    """
    try:
        with (directory / EVENTS).open(encoding="ascii") as file:
            record = record_of(read_events(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The events in {directory} cannot be read: {error}") from error
    return record, read_extras(directory, context)


def write_page(file: Path, *runs: tuple[Record, Extras]) -> None:
    """Write the page where only this user can read it, as runs are.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = page(*runs)
    try:
        with open(file, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(
            f"The page cannot be written to {file} ({error.strerror}): choose another with --out."
        ) from error
