"""The guest's end of the channel to the host."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator

from rlm.protocol.connection import Connection, Role
from rlm.protocol.messages import CHUNK_BYTES, Blob, Chunk, Message, Payload, ProtocolError

from .link import descriptor_of
from .output import F_SETPIPE_SZ

READ_BYTES = 1 << 20


class Channel:
    """Writes block, so that a slow host slows the guest; reads return what is available. Large values go to memory files."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader = reader
        self.writer = writer
        self._connection = Connection(Role.GUEST)
        self._buffer = bytearray(READ_BYTES)  # reused: fresh memory for each read would cost more than the read
        self._values: dict[int, int] = {}  # memory file of each value, by stream number
        self._last_stream = 0

    @classmethod
    def over_standard_streams(cls) -> Channel:
        """Use standard input and output, and replace them by /dev/null."""
        reader, writer = os.dup(0), os.dup(1)  # dup makes them close on exec
        with contextlib.suppress(OSError):  # outside a container these may not be pipes
            fcntl.fcntl(reader, F_SETPIPE_SZ, READ_BYTES)
            fcntl.fcntl(writer, F_SETPIPE_SZ, READ_BYTES)
        _silence_standard_streams()
        return cls(reader, writer)

    @classmethod
    def over_socket(cls, path: str) -> Channel:
        """Connect to a socket, and replace the unused standard streams by /dev/null."""
        _silence_standard_streams()
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        descriptor = sock.detach()
        return cls(descriptor, descriptor)

    def close(self) -> None:
        os.close(self.reader)
        if self.writer != self.reader:
            os.close(self.writer)

    def send(self, message: Message) -> None:
        view = memoryview(self._connection.send(message))
        while view:
            view = view[os.write(self.writer, view) :]

    def send_value(self, payload: Payload, descriptors: list[int]) -> Payload:
        """Send a worker's large value ahead of its message. Returns the field that stands for it.

        Raises:
            ProtocolError: The worker's descriptor does not contain the value.
        """
        if isinstance(payload, bytes):
            return payload
        descriptor = descriptor_of(payload, descriptors)
        self._last_stream += 1
        sent = 0
        while sent < payload.size:
            try:
                data = os.pread(descriptor, min(CHUNK_BYTES, payload.size - sent), sent)
            except OSError as error:  # opened for writing only, or with O_PATH
                raise ProtocolError("a value is unreadable") from error
            if not data:
                raise ProtocolError("a value is shorter than announced")
            self.send(Chunk(stream=self._last_stream, data=data))
            sent += len(data)
        return Blob(stream=self._last_stream, size=payload.size)

    def send_pieces(self, pieces: Iterable[bytes]) -> Payload:
        """Send a value of unknown size ahead of its message."""
        self._last_stream += 1
        sent = 0
        for piece in pieces:
            self.send(Chunk(stream=self._last_stream, data=piece))
            sent += len(piece)
        return Blob(stream=self._last_stream, size=sent) if sent else b""

    def receive(self) -> list[Message]:
        """Receive available messages. Large values are kept for `take_value`.

        Raises:
            EOFError: The host is gone.
        """
        size = os.readv(self.reader, [self._buffer])
        if not size:
            raise EOFError
        with memoryview(self._buffer) as view:
            self._connection.receive_data(view[:size])
        messages: list[Message] = []
        while (message := self._connection.next_message()) is not None:
            if isinstance(message, Chunk):
                self._keep(message)
            else:
                messages.append(message)
        return messages

    def _keep(self, chunk: Chunk) -> None:
        if chunk.stream not in self._values:
            self._values[chunk.stream] = os.memfd_create("value", os.MFD_CLOEXEC)
        view = memoryview(chunk.data)
        while view:
            view = view[os.write(self._values[chunk.stream], view) :]

    def take_value(self, payload: Payload) -> tuple[Payload, list[int]]:
        """Convert a host's value for a worker: the field, and the descriptors to pass along and close."""
        if isinstance(payload, bytes):
            return payload, []
        return Blob(stream=0, size=payload.size), [self._values.pop(payload.stream)]

    @contextlib.contextmanager
    def open_value(self, payload: Payload) -> Iterator[Iterator[bytes]]:
        """Read a host's value in pieces."""
        if isinstance(payload, bytes):
            yield iter([payload])
            return
        descriptor = self._values.pop(payload.stream)
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            yield iter(lambda: os.read(descriptor, CHUNK_BYTES), b"")
        finally:
            os.close(descriptor)


def _silence_standard_streams() -> None:
    """Keep the runtime's streams from later processes."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
