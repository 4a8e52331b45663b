"""The host's state of a running cell: its clock, pending calls and output. No I/O.

All input comes from untrusted code. Contradictory or excessive input raises `SandboxMisbehaved`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import anyio

from rlm.config import SandboxConfig
from rlm.errors import SandboxMisbehaved
from rlm.protocol.clock import Clock
from rlm.protocol.messages import KIB, Output

from .base import Answer, OnOutput

OUTPUT_SLACK_BYTES: Final = 2 * KIB  # how far a stream may exceed its limit: the guest rounds halves
MAX_SPLIT_BYTES: Final = 3  # a cut inside a UTF-8 character leaves at most this many bytes on one side


class RunningCell:
    """One cell from its start to its result.

    Args:
        number: Number of the cell in its session.
        seconds: Time limit plus the host's tolerance (see `rlm.protocol.clock`).
        config: Sets the limits.
        answer: Serves the cell's queries.
        on_output: Receives output as it appears.

    Attributes:
        timeout: Scope that is cancelled when the time limit has passed.
    """

    def __init__(
        self, number: int, *, seconds: float, config: SandboxConfig, answer: Answer, on_output: OnOutput | None
    ) -> None:
        self.number = number
        self.answer = answer
        self.timeout = anyio.CancelScope()
        self.stdout = OutputBuffer("stdout", config.max_output_bytes, on_output)
        self.stderr = OutputBuffer("stderr", config.max_output_bytes, on_output)
        self._max_pending = config.max_calls_in_flight
        self._max_pending_bytes = config.max_value_bytes
        self._pending: dict[int, int] = {}  # size in bytes of each pending call, by number
        self._answer_scopes: set[anyio.CancelScope] = set()
        self._ended = False
        self._last_call = 0
        self._clock = Clock(seconds, now=anyio.current_time)
        self.timeout.deadline = self._clock.end

    def call_started(self, call: int, size: int) -> None:
        """Register a call of `size` bytes."""
        if call <= self._last_call:
            raise SandboxMisbehaved("The sandbox used a call number twice.")
        if len(self._pending) >= self._max_pending:
            raise SandboxMisbehaved(f"The sandbox has more than {self._max_pending} pending calls.")
        self._last_call = call
        self._pending[call] = size
        if sum(self._pending.values()) > self._max_pending_bytes:
            raise SandboxMisbehaved(
                f"The pending calls of the sandbox exceed {self._max_pending_bytes:,} bytes "
                "(SandboxConfig.max_value_bytes)."
            )
        self._clock.call_started()
        self.timeout.deadline = self._clock.end

    def call_answered(self, call: int) -> None:
        """Remove a call whose answer has been sent."""
        del self._pending[call]
        self._clock.call_answered()
        self.timeout.deadline = self._clock.end

    @contextmanager
    def answering(self) -> Iterator[anyio.CancelScope]:
        """Scope for computing one answer; the end of the cell cancels it.

        Sending the answer must happen outside: the guest would keep half of it.
        """
        with anyio.CancelScope() as scope:
            self._answer_scopes.add(scope)
            if self._ended:
                scope.cancel()
            try:
                yield scope
            finally:
                self._answer_scopes.discard(scope)

    def end(self) -> None:
        """Cancel the computation of all pending answers."""
        self._ended = True
        for scope in self._answer_scopes:
            scope.cancel()

    def add_output(self, output: Output) -> None:
        """Append to the stream that the message names."""
        match output.stream:
            case 1:
                self.stdout.add(output.data)
            case 2:
                self.stderr.add(output.data)
            case _:
                raise SandboxMisbehaved("The sandbox wrote to an unknown output stream.")


class OutputBuffer:
    """One bounded output stream of a cell, passed on as text while it arrives.

    If the cell wrote more than the guest sent, the guest sent the first half of the limit and the last bytes.
    """

    def __init__(self, name: Literal["stdout", "stderr"], max_bytes: int, on_output: OnOutput | None) -> None:
        self._name = name
        self._half = max(1, max_bytes // 2)
        self._max_bytes = max_bytes + OUTPUT_SLACK_BYTES
        self._data = bytearray()
        self._on_output = on_output
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def add(self, data: bytes) -> None:
        """Append data. Raises SandboxMisbehaved when the stream exceeds its limit."""
        if len(self._data) + len(data) > self._max_bytes:
            raise SandboxMisbehaved("The sandbox sent more output than its limit allows.")
        self._data += data
        self._emit(self._decoder.decode(data))

    def _emit(self, text: str) -> None:
        if self._on_output is not None and text:
            self._on_output(self._name, text)

    def finish(self, total: int) -> tuple[str, int]:
        """Return the text, and how many of the `total` bytes written it lacks.

        Missing bytes are between head and tail, where a line says so. The cut never splits a character.
        """
        self._emit(self._decoder.decode(b"", final=True))
        if total < len(self._data):
            raise SandboxMisbehaved("The sandbox sent more output than its cell wrote.")
        if total == len(self._data):
            return _decode(self._data), 0
        head = _drop_split_end(self._data[: self._half])
        tail = _drop_split_start(self._data[self._half :])
        cut = total - len(head) - len(tail)
        return f"{_decode(head)}\n[... {cut:,} bytes left out ...]\n{_decode(tail)}", cut


def _decode(data: bytearray) -> str:
    return data.decode("utf-8", "backslashreplace")


def _drop_split_end(data: bytearray) -> bytearray:
    """Drop the first bytes of a character whose last bytes are missing."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-MAX_SPLIT_BYTES:])
    split = len(decoder.getstate()[0])
    return data[: len(data) - split]


def _drop_split_start(data: bytearray) -> bytearray:
    """Drop the last bytes of a character whose first bytes are missing."""
    start = 0
    while start < min(MAX_SPLIT_BYTES, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]
