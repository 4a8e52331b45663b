"""How many requests a server gets at once, and when: fewer, and later, once it says that they come too fast. No HTTP."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Final

import anyio

FIRST_WAIT_SECONDS: Final = 0.5  # where the server does not say how long; doubled until it answers again
MAX_WAIT_SECONDS: Final = 30.0


class Gate:
    """What one event loop's requests to one model pass, one by one.

    After a refusal all of them wait until the server's time is over. Half as many as before may then be sent at once, and
    one more with each reply, so that they do not come all together again (AIMD, as in TCP).

    Args:
        most: requests at once; None is any number.
        patience: seconds that a server may have all of them wait; one that asks for more is asked by each, and refuses it.
    """

    def __init__(self, most: int | None, *, patience: float) -> None:
        self._most = math.inf if most is None else most
        self._patience = patience
        self._slots = anyio.CapacityLimiter(self._most)
        self._opens = 0.0  # the loop's time
        self._narrowed = 0.0  # when it last was
        self._refusals = 0  # since the latest reply; of many at once one counts
        self._answered = 0.0  # the latest reply

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[float]:
        """Wait for one's turn. Gives the loop's time at which it came."""
        clock = asyncio.get_running_loop().time
        async with self._slots:
            while (seconds := self._opens - clock()) > 0:  # noqa: ASYNC110 - another refusal may move it
                await anyio.sleep(seconds)
            yield clock()

    def answered(self) -> None:
        """A request had its reply."""
        self._answered = asyncio.get_running_loop().time()
        self._refusals = 0
        if self._slots.total_tokens < self._most:
            self._slots.total_tokens += 1

    def refused(self, sent: float, asked: float | None) -> float:
        """A request that was sent at that time came too fast; the server `asked` to wait so long. How long it will be."""
        now = asyncio.get_running_loop().time()
        if sent >= self._narrowed:  # else it was one of many at once
            self._narrowed = now
            self._refusals += 1
            self._slots.total_tokens = max(1, self._slots.borrowed_tokens // 2)
        longest = min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(self._refusals - 1, 16))
        seconds = longest * random.uniform(0.5, 1.0) if asked is None else asked  # noqa: S311 - not secret
        if seconds <= self._patience:
            self._opens = max(self._opens, now + seconds)
        return seconds

    def idle_since(self, sent: float) -> float:
        """The latest sign of progress: a reply to anybody, or that one's first request was sent."""
        return max(sent, self._answered)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a response asks to wait, if it does."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            seconds = float(milliseconds) / 1000
        else:
            seconds = float(headers.get("retry-after", ""))
    except ValueError:
        try:
            seconds = parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
