"""The link between supervisor and worker: each packet is one message with the descriptors of its large values.

A large value travels as a memory file (memfd_create(2)) whose descriptor is passed along (SCM_RIGHTS, unix(7)). Its `Blob`
holds the position of the descriptor in the packet. So large values are never copied between the processes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from array import array
from collections.abc import Iterator, Sequence

from rlm.protocol.messages import INLINE_BYTES, Blob, Message, Payload, ProtocolError, pack, unpack

PACKET_BYTES = 192 * 1024  # below Linux's default limit for one packet of a socket pair (208 KiB)
MAX_DESCRIPTORS = 2  # the prompt and the context of a query


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
        """Create a link from a duplicate of a descriptor, which the caller still owns.

        Raises:
            ProtocolError: The descriptor is not a socket.
        """
        own = os.dup(descriptor)
        try:
            return cls(socket.socket(fileno=own))
        except OSError as error:
            os.close(own)
            raise ProtocolError("a link is not a socket") from error

    def fileno(self) -> int:
        return self._sock.fileno()

    def set_nonblocking(self) -> None:
        """Raise BlockingIOError rather than wait. A flag of each call, because the socket's own flag is shared."""
        self._flags = socket.MSG_DONTWAIT

    def close(self) -> None:
        self._sock.close()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message. Raises OSError if the other end is gone."""
        self.send_bytes(pack(message), descriptors)

    def send_bytes(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        self._sock.sendmsg([data], rights, self._flags)

    def receive_bytes(self) -> tuple[bytes, list[int]]:
        """Receive a packet and its descriptors, which the caller must close. Empty if the other end is gone."""
        descriptors = array("i")
        ancillary_bytes = socket.CMSG_LEN(MAX_DESCRIPTORS * descriptors.itemsize)
        data, ancillary, _, _ = self._sock.recvmsg(PACKET_BYTES, ancillary_bytes, self._flags)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content)
        return data, list(descriptors)

    def receive(self) -> tuple[Message, list[int]]:
        """Receive a message and its descriptors, which the caller must close.

        Raises:
            EOFError: The other end is gone.
            ProtocolError: The packet is not a message.
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


class FdBundle:
    """The descriptors of one outgoing message."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def add(self, value: bytes) -> Payload:
        """Return the field that stands for `value`. A large value goes to a memory file."""
        if len(value) <= INLINE_BYTES:
            return value
        descriptor = os.memfd_create("value", os.MFD_CLOEXEC)
        self.descriptors.append(descriptor)
        view = memoryview(value)
        while view:
            view = view[os.write(descriptor, view) :]
        return Blob(stream=len(self.descriptors) - 1, size=len(value))


@contextlib.contextmanager
def fd_bundle() -> Iterator[FdBundle]:
    """A bundle whose descriptors are closed at the end, sent or not."""
    bundle = FdBundle()
    try:
        yield bundle
    finally:
        close_all(bundle.descriptors)


def descriptor_of(blob: Blob, descriptors: Sequence[int]) -> int:
    """The descriptor of a large value.

    Raises:
        ProtocolError: It is missing, or not a file of the announced size (a pipe could block its reader).
    """
    if blob.stream >= len(descriptors):
        raise ProtocolError("a value has no descriptor")
    descriptor = descriptors[blob.stream]
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size < blob.size:
        raise ProtocolError("a value's descriptor is not a file of its size")
    return descriptor


def read_value(payload: Payload, descriptors: Sequence[int]) -> bytes:
    """Read a value from its field or its memory file."""
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
