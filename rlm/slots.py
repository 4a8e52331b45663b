"""Who may hold a sandbox: admission by level, so that no tree can deadlock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from .errors import ConfigError


class LevelSlots:
    """A number of slots shared by the levels of a call tree (0: the root).

    An RLM keeps its slot while it waits for its children, so plain first-come admission can end with parents holding all
    slots and no child able to start. Here level k is admitted only while one slot remains free for every deeper level.
    Then there is no deadlock: of all levels that hold slots let k be the deepest, and all of its holders wait for level
    k+1. When the last holder was admitted, at most `slots - (levels - 1 - k)` were taken; level k+1 may take one more.
    """

    def __init__(self, *, slots: int, levels: int) -> None:
        """Raises ConfigError when there are fewer slots than levels."""
        if slots < levels:
            raise ConfigError(
                f"max_sandboxes={slots} is too small for {levels} levels of RLMs: each level needs one; "
                f"set Limits(max_sandboxes={levels}) or more, or a smaller depth."
            )
        self._slots = slots
        self._levels = levels
        self.taken = 0
        self._freed = anyio.Condition()

    @asynccontextmanager
    async def hold(self, level: int) -> AsyncIterator[None]:
        """Wait for a slot at `level`, and keep it."""
        most = self._slots - (self._levels - 1 - level)
        async with self._freed:
            while self.taken >= most:
                await self._freed.wait()
            self.taken += 1
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):  # takes the lock only: nobody holds it across a wait
                async with self._freed:
                    self.taken -= 1
                    self._freed.notify_all()
