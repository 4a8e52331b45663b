"""How much a guest may say. Pure: the caller brings the time and does the waiting.

A rate is held by back-pressure: the host reads later, and the guest waits. So an honest guest loses nothing, and one that
floods takes a bounded part of the host's processor. Only a total ends the session.
"""

from __future__ import annotations

from typing import Final

from rlm.config import SandboxConfig
from rlm.errors import SandboxMisbehaved

BURST_SECONDS: Final = 4.0  # of its rate that a guest may say at once: the queries of a large batch, a long prompt


class Meter:
    """Counts what comes from one guest.

    Args:
        config: whose rates and total hold.
        now: seconds on the caller's clock.
    """

    def __init__(self, config: SandboxConfig, now: float) -> None:
        self._config = config
        self._left = config.max_received_bytes
        # When what has come would have come at the steady rate (the generic cell rate algorithm, ITU-T I.371).
        self._frames_due = self._bytes_due = now

    def frames(self, count: int, now: float) -> None:
        """So many whole frames were read."""
        self._frames_due = max(self._frames_due, now) + count / self._config.max_frames_per_second

    def bytes(self, count: int, now: float) -> None:
        """So many bytes were received.

        Raises:
            SandboxMisbehaved: that is more than a sandbox may ever say.
        """
        self._left -= count
        if self._left < 0:
            raise SandboxMisbehaved(
                f"The sandbox has sent more than {self._config.max_received_bytes:,} bytes "
                "(SandboxConfig.max_received_bytes)."
            )
        self._bytes_due = max(self._bytes_due, now) + count / self._config.max_bytes_per_second

    def wait(self, now: float) -> float:
        """Seconds until the next read."""
        return max(0.0, self._frames_due - now - BURST_SECONDS, self._bytes_due - now - BURST_SECONDS)
