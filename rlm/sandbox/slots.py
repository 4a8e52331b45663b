"""Admission of sandboxes by level of the call tree, so that no tree can deadlock."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import accumulate

import anyio

from rlm.errors import ConfigError


class LevelSlots:
    """Slots shared by the levels of a call tree (0: the root).

    An RLM keeps its slot while it waits for its children. With first-come admission, parents could take all slots, and
    no child could start. Here levels 0 to k together may use `caps[k]` slots, which grows with k up to all slots. So each
    level can use slots that the levels above it cannot take.

    This rules out deadlock. Let k be the deepest level with slots in use, and let all its users wait for level k+1. At
    most `caps[k]` slots are in use, fewer than `caps[k+1]` and all later caps: level k+1 can take one.
    """

    def __init__(self, *, slots: int | None, levels: int) -> None:
        """Set the caps. `slots=None` means no limit.

        Raises:
            ConfigError: Fewer slots than levels.
        """
        if slots is not None and slots < levels:
            raise ConfigError(
                f"max_sandboxes={slots} is too small for {levels} levels of RLMs, which need one sandbox each: "
                f"set Limits(max_sandboxes={levels}) or more, or a smaller depth."
            )
        # One slot for the root, and an equal share of the others for each level below it.
        self._caps: list[float] = [math.inf if slots is None else slots] * levels
        if slots is not None and levels > 1:
            self._caps = [1 + (slots - 1) * level // (levels - 1) for level in range(levels)]
        self._used = [0] * levels
        self._freed = anyio.Condition()

    @property
    def in_use(self) -> int:
        """Number of slots in use, over all levels."""
        return sum(self._used)

    @asynccontextmanager
    async def hold(self, level: int) -> AsyncIterator[None]:
        """Wait for a slot at `level`, and keep it until the context ends."""
        async with self._freed:
            while not self._has_room(level):
                await self._freed.wait()
            self._used[level] += 1
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):  # short: no task holds this lock while it waits
                async with self._freed:
                    self._used[level] -= 1
                    self._freed.notify_all()

    def _has_room(self, level: int) -> bool:
        totals = accumulate(self._used)  # slots in use from the root down to each level
        return all(total < cap for total, cap in list(zip(totals, self._caps, strict=True))[level:])
