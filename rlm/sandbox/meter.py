"""Limits how much a guest may send. Pure: the caller passes the time and does the waiting.

Rates are enforced by back-pressure: the host reads later, so the guest waits. An honest guest loses nothing, and a
flooding one takes a bounded share of the host's processor. Only the total limit ends the session.
"""

from __future__ import annotations

from typing import Final

from rlm.config import SandboxConfig
from rlm.errors import SandboxMisbehaved

BURST_SECONDS: Final = 4.0  # how far a guest may run ahead of its rates: the queries of a large batch, a long prompt


class Meter:
    """Counts what one guest sends.

    Args:
        config: Sets the rates and the total limit.
        now: Seconds on the caller's clock.
    """

    def __init__(self, config: SandboxConfig, now: float) -> None:
        self._config = config
        self._remaining_bytes = config.max_received_bytes
        # When the data so far would have arrived at the steady rate (the generic cell rate algorithm, ITU-T I.371).
        self._frames_due = self._bytes_due = now

    def add_frames(self, count: int, now: float) -> None:
        """Count complete frames."""
        self._frames_due = max(self._frames_due, now) + count / self._config.max_frames_per_second

    def add_bytes(self, count: int, now: float) -> None:
        """Count received bytes.

        Raises:
            SandboxMisbehaved: The sandbox exceeded its total limit.
        """
        self._remaining_bytes -= count
        if self._remaining_bytes < 0:
            raise SandboxMisbehaved(
                f"The sandbox sent more than {self._config.max_received_bytes:,} bytes "
                "(SandboxConfig.max_received_bytes)."
            )
        self._bytes_due = max(self._bytes_due, now) + count / self._config.max_bytes_per_second

    def delay(self, now: float) -> float:
        """Seconds to wait before the next read."""
        return max(0.0, self._frames_due - now - BURST_SECONDS, self._bytes_due - now - BURST_SECONDS)
