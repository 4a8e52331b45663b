"""What is shown of a run while it goes: on standard error, as events come."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from rlm.config import Limits
from rlm.console import ConsoleView
from rlm.errors import ConfigError
from rlm.events import Event, LimitsRaised, ModelFailed, ModelReplied, OnEvent, RLMStarted, SandboxLost, TurnStarted
from rlm.types import Usage

if TYPE_CHECKING:
    from rlm.running import Run


def progress(*, quiet: bool, verbose: bool) -> OnEvent | None:
    """The listener that shows a run: nothing, every turn, or one line a turn of the root.

    Raises:
        ConfigError: both were asked for.
    """
    if quiet and verbose:
        raise ConfigError("Quiet and verbose cannot be had at once: leave out -q or -v.")
    if quiet:
        logging.getLogger("rlm").setLevel(logging.ERROR)
        return None
    return ConsoleView() if verbose else Lines(sys.stderr)


@asynccontextmanager
async def shown(run: Run, limits: Limits, listener: OnEvent | None) -> AsyncIterator[OnEvent | None]:
    """The listener to hand a run's events to: on a terminal, in place of the lines, a tree that is steered by keys."""
    if not isinstance(listener, Lines) or not sys.stderr.isatty():
        yield listener
        return
    from rlm.live import live_view

    async with live_view(run, limits) as view:
        now = limits

        def show(event: Event) -> None:
            nonlocal now
            if isinstance(event, LimitsRaised):
                raised: dict[str, Any] = dict(event.limits)
                now = replace(now, **raised)
                view.set_limits(now)
            view(event)

        yield show


class Lines:
    """One plain line for each turn of the root: what the whole tree has used so far."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._used = Usage()
        self._sandboxes = 0

    def __call__(self, event: Event) -> None:
        match event:
            case ModelReplied():
                self._used += event.usage
            case ModelFailed(usage=Usage() as usage):
                self._used += usage
            case RLMStarted() | SandboxLost():
                self._sandboxes += 1
            case TurnStarted(node="0"):
                seconds = time.monotonic() - self._began
                self._stream.write(
                    f"turn {event.turn} of {event.of}: {seconds:.1f} s, {used(self._used)}, "
                    f"{counted(self._sandboxes, 'sandbox', 'es')}\n"
                )
                self._stream.flush()


def used(usage: Usage) -> str:
    """What model calls used, in words."""
    cost = "unknown" if usage.cost_usd is None else f"${usage.cost_usd:.4g}"
    return f"{counted(usage.calls, 'model call')}, {usage.input_tokens:,} + {usage.output_tokens:,} tokens, cost {cost}"


def counted(number: int, thing: str, ending: str = "s") -> str:
    """So many things."""
    return f"{number:,} {thing}{ending * (number != 1)}"
