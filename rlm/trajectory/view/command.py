"""What `rlm view` does: finds runs, reads them, and writes the page of one or of two beside each other."""

from __future__ import annotations

from pathlib import Path

from rlm.errors import ConfigError
from rlm.store.directory import private
from rlm.trajectory.extras import Extras
from rlm.trajectory.trajectory import Record

from .page import page


def write_page(file: Path, *runs: tuple[Record, Extras]) -> None:
    """Write the page where only this user can read it, as runs are.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = page(*runs)
    try:
        with open(file, "w", encoding="utf-8", opener=private) as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(
            f"The page cannot be written to {file} ({error.strerror}): choose another with --out."
        ) from error
