"""What may be changed of a run under way: its limits, whether it goes on, and whether it is to answer now.

Used on the run's event loop only; `Run` is the handle for everybody else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import anyio

from .config import Limits
from .errors import ConfigError
from .types import StopReason

RAISABLE: Final = ("max_lm_calls", "max_tokens", "max_cost_usd", "max_seconds")  # models act on the others


class Steering:
    """The clock of a run, and the switches that somebody outside may turn.

    Args:
        limits: those that the run begins with.
        on_limits: called with new ones.

    Attributes:
        limits: as they are now.
        paused: whether RLMs wait before their next turn. The clock of `max_seconds` stands still meanwhile.
        reason: why the work was stopped, where it was.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.paused = False
        self.reason: StopReason = "deadline"
        self.on_limits: Callable[[Limits], None] = lambda limits: None
        self._used = 0.0  # seconds that the clock has run
        self._since: float | None = None  # when it was started
        self._scopes: set[anyio.CancelScope] = set()
        self._go = anyio.Event()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The clock runs while a question is answered."""
        self.reason = "deadline"
        self._start()
        try:
            yield
        finally:
            self._stop()

    @contextmanager
    def working(self) -> Iterator[anyio.CancelScope]:
        """Work that is cancelled when the time is used up, or when the answer is wanted now."""
        with anyio.CancelScope(deadline=self._deadline()) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.remove(scope)

    async def turn(self) -> None:
        """Wait while the run is paused."""
        while self.paused:
            await self._go.wait()

    def pause(self) -> None:
        """No RLM begins another turn."""
        if not self.paused:
            self.paused = True
            self._go = anyio.Event()
            self._stop()
            self._move()

    def go_on(self) -> None:
        """RLMs begin turns again."""
        if self.paused:
            self.paused = False
            self._go.set()
            self._start()
            self._move()

    def answer_now(self) -> None:
        """Stop what is under way; the root takes its last turn."""
        self.go_on()
        self.reason = "stopped"
        self._move()

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
            if value is not None and (now is None or not value > now):
                raise ConfigError(
                    f"{name} is {'without limit' if now is None else f'{now:,}'} already: give more than that."
                )
        self.limits = replace(self.limits, **limits)  # type: ignore[arg-type]
        self.on_limits(self.limits)
        self._move()

    def _start(self) -> None:
        self._since = anyio.current_time()

    def _stop(self) -> None:
        if self._since is not None:
            self._used += anyio.current_time() - self._since
            self._since = None

    def _deadline(self) -> float:
        if self.reason == "stopped":
            return -math.inf
        if self._since is None or self.limits.max_seconds is None:
            return math.inf
        return self._since + self.limits.max_seconds - self._used

    def _move(self) -> None:
        for scope in self._scopes:
            scope.deadline = self._deadline()
