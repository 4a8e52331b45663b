"""The line between supervisor and worker: one packet is one message with the descriptors of its large values.

A value that is too large for its message travels as a memory file (memfd_create(2)) that is passed along (SCM_RIGHTS,
unix(7)); its `Blob` then holds the position of the descriptor in the packet. So no large value is copied between them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from array import array
from collections.abc import Iterator, Sequence

from rlm.protocol.messages import INLINE_BYTES, Blob, Message, Payload, ProtocolError, pack, unpack

PACKET_BYTES = 192 * 1024  # below what a socket pair takes at once with Linux's default buffers (208 KiB)
MAX_DESCRIPTORS = 2  # a query's prompt and its context


class Link:
    """One end of a SOCK_SEQPACKET socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._flags = 0

    @classmethod
    def pair(cls) -> tuple[Link, Link]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    @classmethod
    def adopt(cls, descriptor: int) -> Link:
        """The line behind a descriptor that stays the caller's.

        Raises:
            ProtocolError: it is none.
        """
        own = os.dup(descriptor)
        try:
            return cls(socket.socket(fileno=own))
        except OSError as error:
            os.close(own)
            raise ProtocolError("a line is not a socket") from error

    def fileno(self) -> int:
        return self._sock.fileno()

    def never_wait(self) -> None:
        """Raise BlockingIOError instead. Asked at each call: the flag of the socket is shared with whoever has a copy."""
        self._flags = socket.MSG_DONTWAIT

    def close(self) -> None:
        self._sock.close()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message. Raises OSError when the other end is gone."""
        self.send_bytes(pack(message), descriptors)

    def send_bytes(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        self._sock.sendmsg([data], rights, self._flags)

    def receive_bytes(self) -> tuple[bytes, list[int]]:
        """One packet and its descriptors, which are the caller's to close; no bytes when the other end is gone."""
        descriptors = array("i")
        most = socket.CMSG_LEN(MAX_DESCRIPTORS * descriptors.itemsize)
        data, ancillary, _, _ = self._sock.recvmsg(PACKET_BYTES, most, self._flags)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content)
        return data, list(descriptors)

    def receive(self) -> tuple[Message, list[int]]:
        """One message and its descriptors, which are the caller's to close.

        Raises:
            EOFError: the other end is gone.
            ProtocolError: the packet is not a message.
        """
        data, descriptors = self.receive_bytes()
        if not data:
            raise EOFError
        try:
            return unpack(data), descriptors
        except ProtocolError:
            close_all(descriptors)
            raise


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class Parcel:
    """Collects the descriptors of one outgoing message, and closes them when it has been sent."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def add(self, value: bytes) -> Payload:
        """The field that stands for `value`: itself, or a memory file where it is large."""
        if len(value) <= INLINE_BYTES:
            return value
        descriptor = os.memfd_create("value", os.MFD_CLOEXEC)
        self.descriptors.append(descriptor)
        view = memoryview(value)
        while view:
            view = view[os.write(descriptor, view) :]
        return Blob(stream=len(self.descriptors) - 1, size=len(value))


@contextlib.contextmanager
def parcel() -> Iterator[Parcel]:
    """A parcel whose descriptors are closed at the end, sent or not."""
    packed = Parcel()
    try:
        yield packed
    finally:
        close_all(packed.descriptors)


def descriptor_of(blob: Blob, descriptors: Sequence[int]) -> int:
    """The descriptor that holds a large value.

    Raises:
        ProtocolError: there is none, or it is not a file of the announced size (a pipe could block its reader).
    """
    if blob.stream >= len(descriptors):
        raise ProtocolError("a value has no descriptor")
    descriptor = descriptors[blob.stream]
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size < blob.size:
        raise ProtocolError("a value's descriptor is not a file of its size")
    return descriptor


def read_value(payload: Payload, descriptors: Sequence[int]) -> bytes:
    """A whole value, wherever it is."""
    if isinstance(payload, bytes):
        return payload
    descriptor = descriptor_of(payload, descriptors)
    value = bytearray(payload.size)
    done = 0
    while done < payload.size:
        got = os.preadv(descriptor, [memoryview(value)[done:]], done)
        if not got:
            raise ProtocolError("a value is shorter than announced")
        done += got
    return bytes(value)
