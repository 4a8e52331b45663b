"""Where runs are: their root, a new directory, and finding one by its id."""

from __future__ import annotations

import os
import secrets
import time
from glob import escape
from pathlib import Path
from typing import Final

from rlm.errors import ConfigError

FILE_NAME: Final = "run.json"
CANDIDATES: Final = 5  # runs that are named where an id could be of several


def find(run: str | Path, root: Path) -> Path:
    """The directory of a run, by its path, its id, or as much of its id as no other run's begins with.

    Raises:
        ConfigError: several begin so.
    """
    path = Path(run)
    if path.is_absolute() or len(path.parts) > 1 or path.is_dir():
        return path
    if (root / path).is_dir():
        return root / path
    found = sorted(each.parent for each in root.glob(f"**/{escape(str(run))}*/{FILE_NAME}"))
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:CANDIDATES]) + ", ..." * (len(found) > CANDIDATES)
        raise ConfigError(f"The id of {len(found):,} runs begins with {run}: give more of it, as in {names}.")
    return found[0] if found else root / path


def default_root() -> Path:
    """Where runs are, unless said otherwise."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "rlm" / "runs"


def new_directory(root: Path | None) -> tuple[str, Path]:
    """A new directory that only this user can read: it will hold the data and the answers."""
    root = default_root() if root is None else root
    run_id = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(4)
    directory = root / run_id
    try:
        root.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"No run directory can be made in {root} ({error.strerror}): choose another with run_root."
        ) from error
    return run_id, directory


def private(path: str, flags: int) -> int:
    """As `opener` of `open`: a file that only this user can read."""
    return os.open(path, flags, 0o600)
