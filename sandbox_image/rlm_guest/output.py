"""Captures a standard stream of a cell: forwards output as it appears, limits it, and counts its bytes."""

from __future__ import annotations

import contextlib
import fcntl
import os

from rlm.protocol.messages import CHUNK_BYTES

READ_BYTES = 256 * 1024
F_SETPIPE_SZ = 1031  # fcntl(2), Linux


class Capture:
    """Reads the pipe behind a standard stream of the worker.

    The first half of `keep` bytes is forwarded at once. Of the rest, the last half is kept until the cell ends.
    """

    def __init__(self, *, keep: int) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        with contextlib.suppress(OSError):  # the kernel limits the total size of a user's pipes
            fcntl.fcntl(self.writer, F_SETPIPE_SZ, READ_BYTES)
        self._half = max(1, keep // 2)
        self.total = 0
        self._sent = 0
        self._tail = bytearray()

    def reset(self) -> None:
        """Prepare for a new cell: drop unread output of the last one."""
        self.read()
        self.total = self._sent = 0
        self._tail.clear()

    def read(self) -> bytes:
        """Read available output once. Returns the part to forward now."""
        try:
            data = os.read(self.reader, READ_BYTES)
        except BlockingIOError:
            return b""
        self.total += len(data)
        now = data[: self._half - self._sent]
        self._sent += len(now)
        self._tail += data[len(now) :]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]
        return now

    def finish(self) -> tuple[bytes, bytes]:
        """Read all available output. Returns the rest of the head, and the tail."""
        head = b""
        before = -1
        while before != self.total:
            before = self.total
            head += self.read()
        return head, bytes(self._tail[-self._half :])


def pieces(data: bytes) -> list[bytes]:
    """Split data into parts that fit into a message."""
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
