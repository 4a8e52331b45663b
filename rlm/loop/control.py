"""What may be changed of a run under way: its limits, whether it goes on, and whether it is to answer now.

Changed on the run's event loop only; `Run` is the handle for everybody else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import anyio

from rlm.config import RAISABLE, Limits
from rlm.errors import ConfigError
from rlm.types import StopReason

LAST_TURN_SECONDS: Final = 60.0  # at most, for the answer with what there is, once a limit is reached
MIN_LAST_TURN_SECONDS: Final = 5.0  # in which a model can reply at all
LAST_TURN_SHARE: Final = 0.1  # of the run's own time, so that this stays a bound


class RunControl:
    """The clock of a run, and the switches that somebody outside may turn.

    Args:
        limits: those that the run begins with.
        on_limits: called with new ones.

    Attributes:
        limits: as they are now.
        paused: whether RLMs wait before their next turn. The clock of `max_seconds` stands still meanwhile.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.paused = False
        self._answer_requested = False  # the answer, now; that may be said before there is a question
        self._replaying = False
        self.on_limits: Callable[[Limits], None] = lambda limits: None
        self._ran: tuple[float, float | None] = (0.0, None)  # seconds that the clock has run, and since when it runs
        self._now: Callable[[], float] = time.monotonic
        self._scopes: set[anyio.CancelScope] = set()
        self._resumed = anyio.Event()

    @property
    def reason(self) -> StopReason:
        """Why the work is stopped, where it is."""
        return "stopped" if self._answer_requested and not self._replaying else "max_seconds"

    @property
    def last_turn_seconds(self) -> float:
        """How long an RLM may take for the answer with what it has, beyond the run's own time."""
        share = math.inf if self.limits.max_seconds is None else LAST_TURN_SHARE * self.limits.max_seconds
        return min(LAST_TURN_SECONDS, max(MIN_LAST_TURN_SECONDS, share))

    @contextmanager
    def question_clock(self, *, again: bool = False) -> Iterator[None]:
        """The clock runs while a question is answered. `again`: it has its answer; that to a later one is wanted now."""
        self._replaying = again
        if not self.paused:
            self._start()
        try:
            yield
        finally:
            self._stop()
            self._answer_requested = self._answer_requested and again

    @contextmanager
    def cancellable(self) -> Iterator[anyio.CancelScope]:
        """Work that is cancelled when the time is used up, or when the answer is wanted now."""
        with anyio.CancelScope(deadline=self._deadline()) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.remove(scope)

    @property
    def seconds(self) -> float:
        """That the clock has run; in any thread."""
        before, since = self._ran
        return before if since is None else before + self._now() - since

    async def wait_if_paused(self) -> None:
        """Wait while the run is paused."""
        while self.paused:
            await self._resumed.wait()

    def pause(self) -> None:
        """No RLM begins another turn."""
        if not self.paused:
            self.paused = True
            self._resumed = anyio.Event()
            self._stop()
            self._reschedule()

    def unpause(self) -> None:
        """RLMs begin turns again."""
        if self.paused:
            self.paused = False
            self._resumed.set()
            self._start()
            self._reschedule()

    def answer_now(self) -> None:
        """Stop what is under way; the root takes its last turn."""
        self.unpause()
        self._answer_requested = True
        self._reschedule()

    def raise_limit(self, **limits: float | None) -> None:
        """Give limits of the run higher values; None takes one away.

        Raises:
            ConfigError: it is not one that can be raised, or the new value is not higher.
        """
        for name, value in limits.items():
            if name not in RAISABLE:
                raise ConfigError(
                    f"{name} cannot be raised while a run is under way; these can: {', '.join(RAISABLE)}."
                )
            now = getattr(self.limits, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ConfigError(f"{name} cannot be {value!r}: give a number, or None for no limit.")
            if value is not None and (now is None or not value > now):
                raise ConfigError(
                    f"{name} is {'without limit' if now is None else f'{now:,}'} already: give more than that."
                )
        self.limits = replace(self.limits, **limits)  # type: ignore[arg-type]
        self.on_limits(self.limits)
        self._reschedule()

    def _start(self) -> None:
        self._now = asyncio.get_running_loop().time  # as anyio's, but for any thread
        self._ran = (self.seconds, self._now())

    def _stop(self) -> None:
        self._ran = (self.seconds, None)

    def _deadline(self) -> float:
        if self.reason == "stopped":
            return -math.inf
        before, since = self._ran
        if since is None or self.limits.max_seconds is None:
            return math.inf
        return since + self.limits.max_seconds - before

    def _reschedule(self) -> None:
        for scope in self._scopes:
            scope.deadline = self._deadline()


def raised_limits(limits: Limits, before: Limits) -> dict[str, float | None]:
    """Of the limits that can be raised, those that are higher than before."""
    found = {name: (getattr(limits, name), getattr(before, name)) for name in RAISABLE}
    return {name: now for name, (now, then) in found.items() if then is not None and (now is None or now > then)}
