"""Byte streams over the docker package's connections: plain sockets, TLS, and objects that can only block."""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

import anyio
from anyio.abc import ByteStream, SocketStream, UNIXSocketStream

SEND_BUFFER_BYTES: Final = 4 << 20  # lets both ends work on a large value at once; the kernel reduces it to its limit


async def adopt(connection: Any) -> ByteStream:
    """Wrap the result of docker's `attach_socket`, whose type depends on the engine's address."""
    sock = getattr(connection, "_sock", connection)  # a SocketIO around the socket of a Unix or TCP address
    if isinstance(sock, ssl.SSLSocket):
        return TLSStream(sock, getattr(sock, "_response", None))
    if isinstance(sock, socket.socket):
        return await adopt_socket(socket.socket(fileno=sock.detach()))  # otherwise the client would close it
    return ThreadedStream(connection)


async def adopt_socket(sock: socket.socket) -> ByteStream:
    """Create a stream that owns a connected socket."""
    enlarge(sock)
    stream: ByteStream
    with anyio.CancelScope(shield=True):  # immediate, and a cancellation would leak the socket
        if sock.family == socket.AF_UNIX:
            stream = await UNIXSocketStream.from_socket(sock)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = await SocketStream.from_socket(sock)
    return stream


def enlarge(sock: socket.socket) -> None:
    """Let the kernel buffer several pieces of a large value."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


class TLSStream(ByteStream):
    """A connection that Python's `ssl` has wrapped; anyio wraps only its own.

    `response` is the HTTP response of the connection. It keeps the connection open until it is closed too.
    """

    def __init__(self, sock: ssl.SSLSocket, response: Any = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._response = response

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                data = self._sock.recv(max_bytes)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as request:
                await self._wait(request)
            except OSError as error:
                raise anyio.BrokenResourceError from error
            else:
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        view = memoryview(item)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as request:
                await self._wait(request)
            except OSError as error:
                raise anyio.BrokenResourceError from error

    async def _wait(self, request: ssl.SSLError) -> None:
        if isinstance(request, ssl.SSLWantReadError):
            await anyio.wait_readable(self._sock)
        else:
            await anyio.wait_writable(self._sock)

    async def send_eof(self) -> None:
        raise NotImplementedError("TLS cannot close one direction")

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)
            self._sock.close()
            if self._response is not None:
                self._response.close()


class ThreadedStream(ByteStream):
    """Any object with blocking `recv`, `sendall` and `close`: an SSH channel, a Windows pipe."""

    def __init__(self, blocking: Any) -> None:
        self._blocking = blocking
        self._threads = anyio.CapacityLimiter(2)  # one reads all the time, one writes

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data: bytes = await anyio.to_thread.run_sync(
                self._blocking.recv, max_bytes, limiter=self._threads, abandon_on_cancel=True
            )
        except OSError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        try:
            await anyio.to_thread.run_sync(self._blocking.sendall, item, limiter=self._threads, abandon_on_cancel=True)
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        raise NotImplementedError("not needed, and not every connection supports it")

    async def aclose(self) -> None:
        self._blocking.close()
