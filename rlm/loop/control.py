"""Controls a run in progress: raises its limits, pauses it, or asks it to answer now. Imports config, errors and types.

For use on the run's event loop only. `Run` is the thread-safe handle.
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

from rlm.config import RAISABLE_LIMITS, Limits
from rlm.errors import ConfigError
from rlm.types import StopReason

MAX_LAST_TURN_SECONDS: Final = 60.0  # limit for the answer after time ran out, or a person asked for it
MIN_LAST_TURN_SECONDS: Final = 5.0  # any less is too short for a model's reply
LAST_TURN_SHARE: Final = 0.1  # share of `max_seconds`, so that the last turn of a short run stays short


class RunControl:
    """The clock of a run, and its controls.

    Args:
        limits: limits at the start of the run.

    Attributes:
        limits: the current limits.
        paused: whether RLMs wait before their next turn. A pause also stops the clock of `max_seconds`.
        on_limits: called with the new limits whenever they change.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.paused = False
        self._answer_requested = False  # may be set before the first question
        self._replaying = False
        self.on_limits: Callable[[Limits], None] = lambda limits: None
        self._elapsed: tuple[float, float | None] = (
            0.0,
            None,
        )  # seconds before the latest start, and its time if running
        self._now: Callable[[], float] = time.monotonic
        self._scopes: dict[anyio.CancelScope, float] = {}  # and the earliest deadline of each
        self._resumed = anyio.Event()

    @property
    def reason(self) -> StopReason:
        """The reason for a stop from outside, if one happens now."""
        return "stopped" if self._answer_requested and not self._replaying else "max_seconds"

    @property
    def last_turn_seconds(self) -> float:
        """Seconds that an RLM's last turn may take in any case, even beyond `max_seconds`."""
        share = math.inf if self.limits.max_seconds is None else LAST_TURN_SHARE * self.limits.max_seconds
        return min(MAX_LAST_TURN_SECONDS, max(MIN_LAST_TURN_SECONDS, share))

    @contextmanager
    def question_clock(self, *, replaying: bool = False) -> Iterator[None]:
        """Run the clock while a question is answered.

        Args:
            replaying: the question has a recorded answer. A request to answer now waits for the first question without.
        """
        self._replaying = replaying
        if not self.paused:
            self._start_clock()
        try:
            yield
        finally:
            self._stop_clock()
            self._answer_requested = self._answer_requested and replaying

    @contextmanager
    def cancellable(self) -> Iterator[anyio.CancelScope]:
        """Cancel the work inside when time runs out, or when an answer is requested."""
        with self._cancellable(earliest=-math.inf) as scope:
            yield scope

    @contextmanager
    def last_turn(self) -> Iterator[anyio.CancelScope]:
        """As `cancellable`, but the work inside has at least `last_turn_seconds`."""
        with self._cancellable(earliest=anyio.current_time() + self.last_turn_seconds) as scope:
            yield scope

    @property
    def seconds(self) -> float:
        """Seconds on the clock. Safe in any thread."""
        before, since = self._elapsed
        return before if since is None else before + self._now() - since

    async def wait_if_paused(self) -> None:
        """Wait until the run is not paused."""
        while self.paused:
            await self._resumed.wait()

    def pause(self) -> None:
        """Keep RLMs from beginning another turn, and stop the clock."""
        if not self.paused:
            self.paused = True
            self._resumed = anyio.Event()
            self._stop_clock()
            self._reschedule()

    def unpause(self) -> None:
        """Let RLMs begin turns again, and start the clock."""
        if self.paused:
            self.paused = False
            self._resumed.set()
            self._start_clock()
            self._reschedule()

    def answer_now(self) -> None:
        """Stop the work in progress: the root takes its last turn."""
        self.unpause()
        self._answer_requested = True
        self._reschedule()

    def raise_limit(self, **limits: float | None) -> None:
        """Raise limits of the run. None removes a limit.

        Raises:
            ConfigError: not a raisable limit, or the new value is not higher.
        """
        for name, value in limits.items():
            if name not in RAISABLE_LIMITS:
                raise ConfigError(f"{name} cannot be raised during a run: raise one of {', '.join(RAISABLE_LIMITS)}.")
            now = getattr(self.limits, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ConfigError(f"{name}={value!r} is invalid: use a number, or None for no limit.")
            if value is not None and (now is None or not value > now):
                current = "unlimited" if now is None else f"{now:,}"
                raise ConfigError(f"{name}={value:,} does not raise the limit: it is {current} now.")
        self.limits = replace(self.limits, **limits)  # type: ignore[arg-type]
        self.on_limits(self.limits)
        self._reschedule()

    def _start_clock(self) -> None:
        self._now = asyncio.get_running_loop().time  # anyio's clock, in a form that works in any thread
        self._elapsed = (self.seconds, self._now())

    def _stop_clock(self) -> None:
        self._elapsed = (self.seconds, None)

    def _deadline(self) -> float:
        if self.reason == "stopped":
            return -math.inf
        before, since = self._elapsed
        if since is None or self.limits.max_seconds is None:
            return math.inf
        return since + self.limits.max_seconds - before

    @contextmanager
    def _cancellable(self, *, earliest: float) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope(deadline=max(earliest, self._deadline())) as scope:
            self._scopes[scope] = earliest
            try:
                yield scope
            finally:
                del self._scopes[scope]

    def _reschedule(self) -> None:
        for scope, earliest in self._scopes.items():
            scope.deadline = max(earliest, self._deadline())


def raised_limits(limits: Limits, before: Limits) -> dict[str, float | None]:
    """The raisable limits that are higher than before."""
    pairs = {name: (getattr(limits, name), getattr(before, name)) for name in RAISABLE_LIMITS}
    return {name: now for name, (now, then) in pairs.items() if then is not None and (now is None or now > then)}
