"""Finds a run's directory and reads its trajectory and details."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rlm.errors import ConfigError
from rlm.events import Event
from rlm.store.directory import default_root, find

from .event_reader import read_events
from .run_details import RunDetails, read_details
from .trajectory import Trajectory, build_trajectory

EVENTS_FILE: Final = "events.jsonl"


def find_run(name: str, root: Path | None = None) -> Path:
    """Find the directory of a run that has events.

    Args:
        name: An ID or a unique prefix of one, the path of a run directory, or the path of its `events.jsonl`.
        root: Folder of runs; None for the default one.

    Raises:
        ConfigError: No run matches, or several do.
    """
    root = root or default_root()
    path = Path(name)
    directory = find(path.parent if path.name == EVENTS_FILE else path, root)
    if not (directory / EVENTS_FILE).is_file():
        raise ConfigError(
            f"No run named {name!r} in {root}. Use an ID from `rlm runs`, or the path of a run directory."
        )
    return directory


def read_run(
    directory: Path, context: Path | None = None, *, with_context: bool = True
) -> tuple[Trajectory, RunDetails]:
    """Read a run, finished or not.

    Args:
        directory: The run's directory.
        context: File or folder that was the run's context, if the directory neither stores nor names it.
        with_context: Whether to read the context.

    Raises:
        ConfigError: The events or `context` are unreadable, or `context` is not the run's.
    """
    return build_trajectory(read_run_events(directory)), read_details(directory, context, with_context=with_context)


def read_run_events(directory: Path) -> Iterator[Event]:
    """Read the events of a run, in order.

    Raises:
        ConfigError: The events are unreadable.
    """
    try:
        with (directory / EVENTS_FILE).open(encoding="ascii") as file:
            yield from read_events(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the events in {directory}: {error}") from error
