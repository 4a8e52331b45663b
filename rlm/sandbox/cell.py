"""What the host keeps of a running cell: its clock, its open queries, its output. No I/O.

Everything counted here is the sandbox's word; what does not fit together, or is too much, is `SandboxMisbehaved`.
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

OUTPUT_SLACK: Final = 2 * KIB  # of what a stream may send beyond its bound: halves are rounded
TORN_BYTES: Final = 3  # of a character in UTF-8 at most that lie on the other side of a cut


class RunningCell:
    """One cell from its start to its result.

    Args:
        number: of the cell in its session.
        seconds: of its own time, with what the host allows beyond it (see `rlm.protocol.clock`).
        config: whose limits hold.
        answer: serves the cell's queries.
        on_output: is told the output as it comes.
    """

    def __init__(
        self, number: int, *, seconds: float, config: SandboxConfig, answer: Answer, on_output: OnOutput | None
    ) -> None:
        self.number = number
        self.answer = answer
        self.patience = anyio.CancelScope()
        self.stdout = OutputBuffer("stdout", config.max_output_bytes, on_output)
        self.stderr = OutputBuffer("stderr", config.max_output_bytes, on_output)
        self._max_open = config.max_calls_in_flight
        self._max_open_bytes = config.max_value_bytes
        self._open: dict[int, int] = {}  # number and size of each query without an answer
        self._thinking: set[anyio.CancelScope] = set()
        self._ended = False
        self._latest = 0
        self._clock = Clock(seconds, now=anyio.current_time)
        self.patience.deadline = self._clock.end

    def asked(self, call: int, size: int) -> None:
        """A query of `size` bytes came."""
        if call <= self._latest:
            raise SandboxMisbehaved("The sandbox used a call number twice.")
        if len(self._open) >= self._max_open:
            raise SandboxMisbehaved(f"The sandbox has more than {self._max_open} calls open.")
        self._latest = call
        self._open[call] = size
        if sum(self._open.values()) > self._max_open_bytes:
            raise SandboxMisbehaved(
                f"The open calls of the sandbox hold more than {self._max_open_bytes:,} bytes "
                "(SandboxConfig.max_value_bytes)."
            )
        self._clock.asked()
        self.patience.deadline = self._clock.end

    def answered(self, call: int) -> None:
        """A query's answer has been sent."""
        del self._open[call]
        self._clock.answered()
        self.patience.deadline = self._clock.end

    @contextmanager
    def thinking(self) -> Iterator[anyio.CancelScope]:
        """For finding one answer, which ends with the cell. Its sending does not: half of one would stay with the guest."""
        with anyio.CancelScope() as scope:
            self._thinking.add(scope)
            if self._ended:
                scope.cancel()
            try:
                yield scope
            finally:
                self._thinking.discard(scope)

    def end(self) -> None:
        """Nobody waits for answers any more."""
        self._ended = True
        for scope in self._thinking:
            scope.cancel()

    def take(self, output: Output) -> None:
        match output.stream:
            case 1:
                self.stdout.take(output.data)
            case 2:
                self.stderr.take(output.data)
            case _:
                raise SandboxMisbehaved("The sandbox wrote to a stream that there is not.")


class OutputBuffer:
    """One output stream of a cell: bounded, and told as text while it comes.

    When more was written than sent, then the first half of the bound and the last bytes were sent.
    """

    def __init__(self, name: Literal["stdout", "stderr"], most: int, on_output: OnOutput | None) -> None:
        self._name = name
        self._half = max(1, most // 2)
        self._most = most + OUTPUT_SLACK
        self._data = bytearray()
        self._on_output = on_output
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def take(self, data: bytes) -> None:
        if len(self._data) + len(data) > self._most:
            raise SandboxMisbehaved("The sandbox sent more output than it may.")
        self._data += data
        self._tell(self._decoder.decode(data))

    def _tell(self, text: str) -> None:
        if self._on_output is not None and text:
            self._on_output(self._name, text)

    def finish(self, total: int) -> tuple[str, int]:
        """The text, given that the cell wrote `total` bytes, and how many of them are not in it.

        Those are missing between head and tail, and a line there says so. No character is torn by the cut.
        """
        self._tell(self._decoder.decode(b"", final=True))
        if total < len(self._data):
            raise SandboxMisbehaved("The sandbox sent more output than its cell wrote.")
        if total == len(self._data):
            return _text(self._data), 0
        head = _without_torn_end(self._data[: self._half])
        tail = _without_torn_start(self._data[self._half :])
        cut = total - len(head) - len(tail)
        return f"{_text(head)}\n[... {cut:,} bytes left out ...]\n{_text(tail)}", cut


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "backslashreplace")


def _without_torn_end(data: bytearray) -> bytearray:
    """Without the first bytes of a character whose last ones are missing."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-TORN_BYTES:])
    torn = len(decoder.getstate()[0])
    return data[: len(data) - torn]


def _without_torn_start(data: bytearray) -> bytearray:
    """Without the last bytes of a character whose first ones are missing."""
    start = 0
    while start < min(TORN_BYTES, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]
