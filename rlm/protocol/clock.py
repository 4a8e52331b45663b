"""The time of a cell, which both ends keep by the same rule. No I/O; standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

CALL_SECONDS: Final = 0.001  # of a cell's time that a call takes at least: a cell that only makes calls ends too
LOOK_SECONDS: Final = 0.02  # between two looks at a clock that stands nearly still


class Clock:
    """What a cell has used of its seconds.

    While no call waits for an answer, the clock goes with time. While one or more wait, it stands still, but for the
    processor time that the cell uses meanwhile and for `CALL_SECONDS` a call. It is never ahead of time.

    Args:
        seconds: that the cell has.
        now: the time.
        processor: the processor time that the cell has used; where nobody can know, it counts as none.
    """

    def __init__(
        self, seconds: float, *, now: Callable[[], float], processor: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.seconds = seconds
        self._now = now
        self._processor = processor
        self._waiting = 0  # calls
        # Up to the latest moment at which the clock went over from going to standing still, or back, and since then:
        self._used = 0.0
        self._since = now()
        self._asked = 0
        self._processor_then = 0.0
        self._next_look = self._since + seconds

    @property
    def used(self) -> float:
        passed = self._now() - self._since
        least = self._asked * CALL_SECONDS
        if self._waiting and passed > least:
            passed = min(passed, least + max(0.0, self._processor() - self._processor_then))
        return self._used + passed

    def asked(self) -> None:
        """A call begins to wait."""
        if not self._waiting:
            self._turn()
            self._processor_then = self._processor()
        self._waiting += 1
        self._asked += 1
        self._next_look -= CALL_SECONDS

    def answered(self) -> None:
        """A call has its answer."""
        if self._waiting == 1:
            self._turn()
        self._waiting -= 1

    def _turn(self) -> None:
        self._used = self.used
        self._since = self._now()
        self._asked = 0

    @property
    def until_look(self) -> float:
        """Seconds in which the time cannot be up, unless more calls are made."""
        return max(0.0, self._next_look - self._now())

    def is_up(self) -> bool:
        """Whether the cell has used all its time; cheap before it is time to look."""
        if self.until_look:
            return False
        left = self.seconds - self.used
        self._next_look = self._now() + max(left, LOOK_SECONDS)
        return left <= 0

    @property
    def end(self) -> float:
        """The moment at which the time is up if no call is made or answered until then, processor time left out."""
        left = self.seconds - self._used
        stands = self._waiting and self._asked * CALL_SECONDS < left
        return math.inf if stands else self._since + left
