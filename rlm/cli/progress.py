"""What is shown of a run while it goes: on standard error, as events come."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TextIO

from rlm.errors import ConfigError
from rlm.events import Event, ModelFailed, ModelReplied, OnEvent, RLMStarted, SandboxLost, TurnStarted
from rlm.live.verbose import ConsoleView
from rlm.types import Usage

if TYPE_CHECKING:
    from rlm.run.handle import Run
    from rlm.types import Completion


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


async def followed(run: Run, listener: OnEvent | None) -> Completion:
    """A run's answer; until then its events go to the listener or, on a terminal, in place of the lines, to a tree that is
    steered by keys.
    """
    async with run, _shown(run, listener) as show:
        async for event in run:
            show(event)
        return await run


@asynccontextmanager
async def _shown(run: Run, listener: OnEvent | None) -> AsyncIterator[OnEvent]:
    if not isinstance(listener, Lines) or not sys.stderr.isatty():
        yield listener or (lambda event: None)
        return
    from rlm.live import live_view

    async with live_view(run) as view:
        yield view


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
                    f"{event.label}: {seconds:.1f} s, {used(self._used)}, {counted(self._sandboxes, 'sandbox', 'es')}\n"
                )
                self._stream.flush()


def used(usage: Usage) -> str:
    """What model calls used, in words."""
    cost = "unknown" if usage.cost_usd is None else f"${usage.cost_usd:.4g}"
    return f"{counted(usage.calls, 'model call')}, {usage.input_tokens:,} + {usage.output_tokens:,} tokens, cost {cost}"


def counted(number: int, thing: str, ending: str = "s") -> str:
    """So many things."""
    return f"{number:,} {thing}{ending * (number != 1)}"
