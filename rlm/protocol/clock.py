"""The time limit of a cell, measured the same way at both ends. No I/O; standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

CALL_SECONDS: Final = 0.001  # minimum charge for a call, so that a cell that only makes calls also times out
CHECK_SECONDS: Final = 0.02  # minimum interval between checks of a clock that is nearly stopped


class Clock:
    """Measures how much of its time limit a cell has used.

    Without pending calls, wall time counts. While calls are pending, only the cell's processor time and `CALL_SECONDS`
    per call count. The clock never runs faster than wall time.

    Args:
        seconds: Time limit of the cell.
        now: Returns the wall time in seconds.
        processor: Returns the processor time of the cell in seconds. The default, for callers who cannot measure it,
            charges none.
    """

    def __init__(
        self, seconds: float, *, now: Callable[[], float], processor: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.seconds = seconds
        self._now = now
        self._processor = processor
        self._pending_calls = 0
        # `_used` is the total at the last switch between running and paused; the rest counts from that switch.
        self._used = 0.0
        self._since = now()
        self._calls_started = 0
        self._processor_then = 0.0
        self._next_check = self._since + seconds

    @property
    def used(self) -> float:
        """Seconds charged to the cell so far."""
        elapsed = self._now() - self._since
        minimum = self._calls_started * CALL_SECONDS
        if self._pending_calls and elapsed > minimum:
            elapsed = min(elapsed, minimum + max(0.0, self._processor() - self._processor_then))
        return self._used + elapsed

    def call_started(self) -> None:
        """Count a new pending call."""
        if not self._pending_calls:
            self._switch()
            self._processor_then = self._processor()
        self._pending_calls += 1
        self._calls_started += 1
        self._next_check -= CALL_SECONDS

    def call_answered(self) -> None:
        """Count a pending call as answered."""
        if self._pending_calls == 1:
            self._switch()
        self._pending_calls -= 1

    def _switch(self) -> None:
        self._used = self.used
        self._since = self._now()
        self._calls_started = 0

    @property
    def until_check(self) -> float:
        """Seconds until the clock can expire at the earliest, unless more calls are made."""
        return max(0.0, self._next_check - self._now())

    def expired(self) -> bool:
        """Whether the cell has used all its time. Cheap until the next check is due."""
        if self.until_check:
            return False
        remaining = self.seconds - self.used
        self._next_check = self._now() + max(remaining, CHECK_SECONDS)
        return remaining <= 0

    @property
    def end(self) -> float:
        """Wall time at which the clock expires if no call starts or ends before. Ignores processor time."""
        remaining = self.seconds - self._used
        paused = self._pending_calls and self._calls_started * CALL_SECONDS < remaining
        return math.inf if paused else self._since + remaining
