"""Writes the files that show or export a run."""

from __future__ import annotations

from pathlib import Path

from rlm.errors import ConfigError
from rlm.store.directory import private


def write_private_file(file: Path, text: str) -> None:
    """Write a text file that only this user can read, like the run itself. Lone surrogates become `?`.

    Raises:
        ConfigError: The file is not writable.
    """
    try:
        with open(file, "w", encoding="utf-8", errors="replace", opener=private) as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"Cannot write {file} ({error.strerror}): choose another file with --out.") from error
