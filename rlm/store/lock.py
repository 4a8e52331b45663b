"""Who works on a run: one process at a time, as long as it holds the lock on a file of the run's directory.

The system lets go of the lock when the process ends, however it ends; so a run whose lock is free can be taken over.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from rlm.errors import ConfigError, JournalError

FILE_NAME: Final = "lock"
PATIENCE_SECONDS: Final = 0.1  # whoever looks whether a run is held holds it for some microseconds


@contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Be the only one who works on a run.

    Raises:
        ConfigError: somebody else does.
        JournalError: the file system has no locks, or no room.
    """
    with ExitStack() as holding:
        try:
            lock = os.open(directory / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o600)
            holding.callback(os.close, lock)
            _take(lock, directory)
            os.ftruncate(lock, 0)
            os.write(lock, str(os.getpid()).encode())  # for the sentence that others are told
        except OSError as error:
            raise JournalError(
                f"The run in {directory} cannot be locked ({error.strerror}): make room, or choose another disk."
            ) from error
        yield


def ensure_unlocked(directory: Path) -> None:
    """Raises ConfigError where somebody works on the run."""
    if is_locked(directory):
        raise _running(directory)


def is_locked(directory: Path) -> bool:
    """Whether somebody works on a run. Raises JournalError where that cannot be seen."""
    try:
        lock = os.open(directory / FILE_NAME, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise JournalError(f"The lock of the run in {directory} cannot be read ({error.strerror}).") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _take(lock: int, directory: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _running(directory) from None
        time.sleep(PATIENCE_SECONDS / 20)


def _running(directory: Path) -> ConfigError:
    process = (directory / FILE_NAME).read_text(encoding="ascii", errors="replace")
    return ConfigError(f"The run {directory.name} is running, in process {process}: wait, or stop it.")
