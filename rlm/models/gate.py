"""Limits concurrent requests to a server, and slows down after a rate limit. No HTTP. Imports nothing of the package."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import anyio

FIRST_PAUSE_SECONDS: Final = 0.5  # if the server does not say how long; doubles until it replies again
MAX_PAUSE_SECONDS: Final = 30.0  # longest pause of this kind, so that a recovered server is noticed soon


class Gate:
    """Admits one event loop's requests to one model.

    After a rate limit, all requests pause for as long as the server asks. Then half as many may be in flight. Each reply
    allows one more, so that they do not all return at once (AIMD, as in TCP).

    Args:
        max_requests: requests in flight at once; None is no limit.
        max_pause_seconds: the longest pause for all requests. If the server asks for more, the others do not pause.
    """

    def __init__(self, max_requests: int | None, *, max_pause_seconds: float) -> None:
        self._max_requests = math.inf if max_requests is None else max_requests
        self._max_pause_seconds = max_pause_seconds
        self._slots = anyio.CapacityLimiter(self._max_requests)
        self._opens_at = 0.0  # by the loop's clock, like all times here
        self._narrowed_at = 0.0
        self._rate_limits = 0  # since the latest reply; many at once count as one
        self._replied_at = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Hold a slot for one request. Yields the loop's time at which it may be sent."""
        clock = asyncio.get_running_loop().time
        async with self._slots:
            while (seconds := self._opens_at - clock()) > 0:  # noqa: ASYNC110 - another rate limit may extend it
                await anyio.sleep(seconds)
            yield clock()

    def on_reply(self) -> None:
        """Note that a request succeeded."""
        self._replied_at = asyncio.get_running_loop().time()
        self._rate_limits = 0
        if self._slots.total_tokens < self._max_requests:
            self._slots.total_tokens += 1

    def on_rate_limit(self, sent_at: float, retry_after: float | None) -> float:
        """Note that a request was rate-limited.

        Args:
            sent_at: the loop's time at which the request was sent.
            retry_after: seconds that the server asks to wait, if it does.

        Returns:
            Seconds to wait before the next attempt.
        """
        now = asyncio.get_running_loop().time()
        if sent_at >= self._narrowed_at:  # else it was sent before the gate narrowed for an earlier one
            self._narrowed_at = now
            self._rate_limits += 1
            self._slots.total_tokens = max(1, self._slots.borrowed_tokens // 2)
        longest = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self._rate_limits - 1, 16))
        seconds = longest * random.uniform(0.5, 1.0) if retry_after is None else retry_after  # noqa: S311 - not secret
        if seconds <= self._max_pause_seconds:
            self._opens_at = max(self._opens_at, now + seconds)
        return seconds

    def last_progress(self, sent_at: float) -> float:
        """The loop's time of the latest reply to any request, or `sent_at` if that is later."""
        return max(sent_at, self._replied_at)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a response asks to wait, 0 or more and finite; None if it does not say."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            seconds = float(milliseconds) / 1000
        else:
            seconds = float(headers.get("retry-after", ""))
    except ValueError:
        seconds = _seconds_until(headers.get("retry-after", ""))
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    """Seconds until an HTTP date; NaN if it is none. Dates may hold numbers that no clock reaches."""
    try:
        when = parsedate_to_datetime(date)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return math.nan
