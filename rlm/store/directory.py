"""Run directories: the default root, creating one, and finding one by its ID. Imports errors."""

from __future__ import annotations

import os
import secrets
import time
from glob import escape
from pathlib import Path
from typing import Final

from rlm.errors import ConfigError

FILE_NAME: Final = "run.json"
MAX_EXAMPLES: Final = 5  # runs named in the error about an ambiguous ID


def find(run: str | Path, root: Path) -> Path:
    """The directory of a run, from its path, its ID, or a unique prefix of its ID.

    Raises:
        ConfigError: no run has the prefix, or several do.
    """
    path = Path(run)
    if path.is_absolute() or len(path.parts) > 1 or path.is_dir():
        return path
    if (root / path).is_dir():
        return root / path
    found = sorted(each.parent for each in root.glob(f"**/{escape(str(run))}*/{FILE_NAME}"))
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:MAX_EXAMPLES]) + ", ..." * (len(found) > MAX_EXAMPLES)
        raise ConfigError(f"'{run}' matches {len(found):,} runs. Use a longer prefix, for example {names}.")
    if not found:
        raise ConfigError(f"No run named '{run}' in {root}. Use an ID from `rlm runs`, or the path of a run directory.")
    return found[0]


def default_root() -> Path:
    """The default directory of all run directories, in the user's state directory.

    Raises:
        ConfigError: the user has no home directory, as users of containers without an entry in `/etc/passwd`.
    """
    from platformdirs import user_state_path

    try:
        return user_state_path("rlm", appauthor=False).expanduser() / "runs"
    except RuntimeError:
        raise ConfigError("No home directory for runs: set HOME, or set RLM_RUN_ROOT (run_root) to a folder.") from None


def new_directory(root: Path | None) -> tuple[str, Path]:
    """Make a run directory that only this user can read, as it holds data and answers. Returns its ID and path."""
    root = default_root() if root is None else root
    run_id = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(4)
    directory = root / run_id
    try:
        root.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"Cannot create a run directory in {root} ({error.strerror}): set run_root to another directory."
        ) from error
    return run_id, directory


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: new files are readable by this user only."""
    return os.open(path, flags, 0o600)
