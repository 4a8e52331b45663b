"""Sandboxes also work on engines behind other addresses than a local socket."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from rlm import Sandbox
from rlm.sandbox.base import QueryReply, SandboxQuery
from rlm.sandbox.docker.engine import default_engine
from rlm.sandbox.docker.sockets import ThreadedStream, adopt

pytestmark = [pytest.mark.anyio, pytest.mark.serial]

ENGINE = "/var/run/docker.sock"


@asynccontextmanager
async def relayed(tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """A TCP port that forwards to the local engine."""
    if not Path(ENGINE).is_socket():
        pytest.skip("the engine is not at its usual socket")

    async def pump(reader: ByteStream, writer: ByteStream, both: anyio.CancelScope) -> None:
        try:
            async for data in reader:
                await writer.send(data)
        except anyio.BrokenResourceError:
            return
        finally:
            both.cancel()  # when one side closes, close the other

    async def serve(client: ByteStream) -> None:
        async with client, await anyio.connect_unix(ENGINE) as engine, anyio.create_task_group() as pumps:
            pumps.start_soon(pump, client, engine, pumps.cancel_scope)
            pumps.start_soon(pump, engine, client, pumps.cancel_scope)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    served = listener if tls is None else TLSListener(listener, tls, standard_compatible=False)
    async with served, anyio.create_task_group() as group:
        group.start_soon(served.serve, serve)
        yield port
        group.cancel_scope.cancel()


async def works() -> None:
    """A sandbox works, with large values in both directions."""

    async def answer(query: SandboxQuery) -> QueryReply:
        return QueryReply(ok=True, text=query.prompt[::-1])

    async with Sandbox(depth=1) as sandbox:
        await sandbox.load("context", "ab" * 2_000_000)
        done = await sandbox.run("print(llm_query(context) == context[::-1])", answer=answer)
        assert done.stdout == "True\n"
    default_engine().close()


async def test_an_engine_behind_tcp_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async with relayed(None) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        await works()


async def test_an_engine_behind_tls_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    shutil.copy(tmp_path / "cert.pem", tmp_path / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with relayed(tls) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://localhost:{port}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # would override the certificate above
            monkeypatch.delenv(name, raising=False)
        await works()


class Pipe:
    """A connection with blocking calls only, as to an engine behind SSH or a Windows pipe."""

    def __init__(self, sock: socket.socket) -> None:
        self.recv, self.sendall, self.close = sock.recv, sock.sendall, sock.close


async def test_a_connection_that_can_only_block_is_a_stream_too() -> None:
    ours, theirs = socket.socketpair()
    stream = await adopt(Pipe(ours))
    assert isinstance(stream, ThreadedStream)
    with theirs:
        async with anyio.create_task_group() as group:
            group.start_soon(stream.send, b"x" * 1_000_000)
            got = 0
            while got < 1_000_000:
                got += len(await anyio.to_thread.run_sync(theirs.recv, 1 << 16))
        theirs.sendall(b"back")
        assert await stream.receive() == b"back"
        with anyio.move_on_after(0.05):
            await stream.receive()
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        await stream.aclose()
