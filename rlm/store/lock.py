"""The lock of a run: the one process that works on it holds a lock on a file in the run directory.

The operating system releases the lock when the process ends, even after a crash. So an unlocked run can be taken over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rlm.errors import ConfigError, JournalError

FILE_NAME: Final = "lock"
ACQUIRE_SECONDS: Final = 0.1  # timeout: a process that checks the lock holds it for microseconds
CHECK_SECONDS: Final = 0.02  # timeout of a check, because another process may be checking, too
RETRY_SECONDS: Final = 0.005


@contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of a run.

    Raises:
        ConfigError: another process holds it.
        JournalError: the file system has no locks, or is full.
    """
    try:
        file = os.open(directory / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        try:
            if not _lock(file, seconds=ACQUIRE_SECONDS):
                raise _running(directory)
            os.ftruncate(file, 0)
            os.write(file, f"\n{os.getpid()}".encode())  # for the error message of other processes
        except OSError as error:
            raise _unusable(directory, error) from error
        yield
    finally:
        os.close(file)


def ensure_unlocked(directory: Path) -> None:
    """Raise ConfigError if a process works on the run."""
    if is_locked(directory):
        raise _running(directory)


def is_locked(directory: Path) -> bool:
    """Whether a process works on the run. Changes nothing. Raises JournalError if the lock is unreadable."""
    path = directory / FILE_NAME
    access = os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY  # NFS locks only files that are open for writing
    try:
        file = os.open(path, access | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(directory, error) from error
    try:
        return not _lock(file, seconds=CHECK_SECONDS)
    except OSError as error:
        raise _unreadable(directory, error) from error
    finally:
        os.close(file)


def _lock(file: int, *, seconds: float) -> bool:
    """Lock an open file until it is closed. Returns False if another process holds the lock for `seconds`."""
    from filelock import lock_descriptor

    deadline = time.monotonic() + seconds
    while not lock_descriptor(file, blocking=False):
        if time.monotonic() > deadline:
            return False
        time.sleep(RETRY_SECONDS)
    return True


def _running(directory: Path) -> ConfigError:
    with open(directory / FILE_NAME, "rb") as file:
        file.seek(1)  # Windows does not allow reading the locked byte
        process = file.read().decode("ascii", "replace")
    return ConfigError(f"Run {directory.name} is running, in process {process}: wait for it, or stop it.")


def _unreadable(directory: Path, error: OSError) -> JournalError:
    return JournalError(f"Cannot read the lock of the run in {directory} ({error.strerror}).")


def _unusable(directory: Path, error: OSError) -> JournalError:
    return JournalError(
        f"Cannot lock the run in {directory} ({error.strerror}): free some space, or choose another disk."
    )
