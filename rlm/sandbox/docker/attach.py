"""The attach connection of an engine: a container's standard streams as one byte stream.

Format: Docker Engine API 1.41, POST /containers/{id}/attach, "Stream format".
"""

from __future__ import annotations

from typing import Final

import anyio
from anyio.abc import ByteStream

HEADER_BYTES: Final = 8  # stream number, three zeros, length
STDOUT: Final = 1
STREAMS: Final = range(4)  # stdin, stdout, stderr, and 3: the engine's own errors
MAX_STDERR_BYTES: Final = 1 << 20  # far more than the guest writes there; no meter limits its rate
STDERR_TAIL_BYTES: Final = 4096  # kept for error messages
RECEIVE_BYTES: Final = 256 * 1024


class Demultiplexer:
    """Splits the engine's stream: returns standard output, and keeps the end of standard error. No I/O."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = 0
        self._remaining = 0  # bytes of the current part
        self._stderr = bytearray()
        self._stderr_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Consume data, and return its standard output.

        Raises:
            ValueError: The data is not in the engine's format, or standard error exceeds its limit.
        """
        view = memoryview(data)
        output: list[memoryview] = []
        while view:
            if not self._remaining:
                view = self._read_header(view)
                continue
            part, view = view[: self._remaining], view[self._remaining :]
            self._remaining -= len(part)
            if self._stream == STDOUT:
                output.append(part)
            else:
                self._stderr_bytes += len(part)
                if self._stderr_bytes > MAX_STDERR_BYTES:
                    raise ValueError("too much on standard error")
                self._stderr += part
                del self._stderr[:-STDERR_TAIL_BYTES]
        return b"".join(output)

    def _read_header(self, view: memoryview) -> memoryview:
        missing = HEADER_BYTES - len(self._header)
        self._header += view[:missing]
        if len(self._header) == HEADER_BYTES:
            self._stream = self._header[0]
            if self._stream not in STREAMS or any(self._header[1:4]):
                raise ValueError("not a header of the engine's stream")
            self._remaining = int.from_bytes(self._header[4:], "big")
            self._header.clear()
        return view[missing:]

    @property
    def stderr(self) -> str:
        """The last text on standard error."""
        return self._stderr.decode("utf-8", "backslashreplace").strip()


class AttachedStream:
    """The stream of a session over an attach connection."""

    def __init__(self, raw: ByteStream) -> None:
        self._raw = raw
        self._demultiplexer = Demultiplexer()

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return the next bytes of standard output; see `rlm.sandbox.channel.Stream`."""
        data = b""
        while not data:
            received = await self._raw.receive(max_bytes)
            try:
                data = self._demultiplexer.feed(received)
            except ValueError as error:
                raise anyio.BrokenResourceError from error
        return data

    async def send(self, item: bytes) -> None:
        """Send bytes to standard input."""
        await self._raw.send(item)

    async def drain(self) -> None:
        """Read to the end, to collect standard error."""
        try:
            while True:
                await self.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def aclose(self) -> None:
        """Close the connection without waiting."""
        await anyio.aclose_forcefully(self._raw)

    @property
    def stderr(self) -> str:
        """The last text on standard error."""
        return self._demultiplexer.stderr
