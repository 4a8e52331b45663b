"""How many instances are in work on this machine at once, whichever processes they are of."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import anyio

POLL_SECONDS: Final = 0.05


class Slots(Protocol):
    """So many places; who works holds one."""

    most: int

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Wait for a place, and keep it."""


class SingleSlot:
    """One place, of this process alone."""

    most = 1

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """There is but one who asks."""
        yield


class MachineSlots:
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
        with self._file("waiting") as waiting:
            fcntl.flock(waiting, fcntl.LOCK_SH)
            place = self._take()
            while place is None:
                await anyio.sleep(POLL_SECONDS)
                place = self._take()
        try:
            yield
        finally:
            place.close()
            with self._file("waiting") as waiting:
                alone = _locked(waiting)
            if not alone:
                await anyio.sleep(2 * POLL_SECONDS)  # who waits looks now and then only, and must find the place free

    def _take(self) -> BinaryIO | None:
        for number in range(self.most):
            place = self._file(str(number))
            if _locked(place):
                return place
            place.close()
        return None

    def _file(self, name: str) -> BinaryIO:
        return open(self._folder / f"{name}.lock", "ab", opener=partial(os.open, mode=0o600))


def _locked(file: BinaryIO) -> bool:
    """Lock it until it is closed; False where another has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def machine_cap(most: int) -> MachineSlots:
    """The places of this user on this machine."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return MachineSlots(most, Path(home) / "rlm" / "eval-places")
