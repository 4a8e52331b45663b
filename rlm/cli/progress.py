"""The progress of a run on standard error: a live tree on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rlm.errors import ConfigError
from rlm.events import OnEvent
from rlm.live import live_view
from rlm.live.lines import LineView
from rlm.live.verbose import VerboseView

if TYPE_CHECKING:
    from rlm.run.handle import Run
    from rlm.types import Completion


def progress_listener(*, quiet: bool, verbose: bool) -> OnEvent | None:
    """The listener that shows a run: none, every event, or the lines that matter.

    Raises:
        ConfigError: `quiet` and `verbose` are both set.
    """
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose are mutually exclusive.")
    if quiet:
        logging.getLogger("rlm").setLevel(logging.ERROR)
        return None
    return VerboseView() if verbose else LineView()


async def follow(run: Run, listener: OnEvent | None) -> Completion:
    """Await a run's answer and pass its events to the listener; on a terminal, the live view replaces lines."""
    async with run, _view(run, listener) as show:
        try:
            async with run:  # ends before the view, which then shows the end of a cancelled run, too
                async for event in run:
                    show(event)
                return await run
        finally:
            if run.done:
                for event in run:
                    show(event)


@asynccontextmanager
async def _view(run: Run, listener: OnEvent | None) -> AsyncIterator[OnEvent]:
    if not isinstance(listener, LineView):
        yield listener or (lambda event: None)
        return
    async with live_view(run) as view:
        yield view
