"""How many instances are in work on this machine at once, whichever processes they are of."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import anyio

POLL_SECONDS: Final = 0.05


class Places(Protocol):
    """So many places; who works holds one."""

    most: int

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Wait for a place, and keep it."""


class OneByOne:
    """One place, of this process alone."""

    most = 1

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """There is but one who asks."""
        yield


class Cap:
    """So many places, as locked files in a folder: a process that dies gives its places back.

    Args:
        most: places.
        folder: of the lock files; processes that name the same one share its places.
    """

    def __init__(self, most: int, folder: Path) -> None:
        self.most = most
        self._folder = folder

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a place, and keep it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = self._take()
        while descriptor is None:
            await anyio.sleep(POLL_SECONDS)
            descriptor = self._take()
        try:
            yield
        finally:
            os.close(descriptor)

    def _take(self) -> int | None:
        for number in range(self.most):
            descriptor = os.open(self._folder / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return descriptor
        return None


def machine_cap(most: int) -> Cap:
    """The places of this user on this machine."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Cap(most, Path(home) / "rlm" / "eval-places")
