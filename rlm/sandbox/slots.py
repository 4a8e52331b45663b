"""Who may hold a sandbox: admission by level, so that no tree can deadlock."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import accumulate

import anyio

from rlm.errors import ConfigError


class LevelSlots:
    """A number of slots shared by the levels of a call tree (0: the root).

    An RLM keeps its slot while it waits for its children, so plain first-come admission can end with parents holding all
    slots and no child able to start. Here the levels 0 to k together may hold `most[k]` slots, which grows with k up to
    all of them: so a level always finds slots that those above it cannot take, and none is taken up by waiting parents.

    Then there is no deadlock. Of all levels that hold slots let k be the deepest, and all of its holders wait for level
    k+1. The slots taken are `most[k]` at most, which is less than `most[k+1]` and all that follow: level k+1 may take one.
    """

    def __init__(self, *, slots: int | None, levels: int) -> None:
        """As many as are wanted where `slots` is None. Raises ConfigError when there are fewer slots than levels."""
        if slots is not None and slots < levels:
            raise ConfigError(
                f"max_sandboxes={slots} is too small for {levels} levels of RLMs: each level needs one; "
                f"set Limits(max_sandboxes={levels}) or more, or a smaller depth."
            )
        # One for the one root, and an equal share of the others for each level below it.
        self._most: list[float] = [math.inf if slots is None else slots] * levels
        if slots is not None and levels > 1:
            self._most = [1 + (slots - 1) * level // (levels - 1) for level in range(levels)]
        self._held = [0] * levels
        self._freed = anyio.Condition()

    @property
    def taken(self) -> int:
        """Slots in use."""
        return sum(self._held)

    @asynccontextmanager
    async def hold(self, level: int) -> AsyncIterator[None]:
        """Wait for a slot at `level`, and keep it."""
        async with self._freed:
            while not self._has_room(level):
                await self._freed.wait()
            self._held[level] += 1
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):  # takes the lock only: nobody holds it across a wait
                async with self._freed:
                    self._held[level] -= 1
                    self._freed.notify_all()

    def _has_room(self, level: int) -> bool:
        down_to = accumulate(self._held)  # slots held by the levels from the root down to each
        return all(held < most for held, most in list(zip(down_to, self._most, strict=True))[level:])
