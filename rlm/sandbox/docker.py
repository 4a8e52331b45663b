"""Sandboxes as Docker containers. The only importer of `docker`."""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

import anyio
import docker
import requests
from anyio.abc import ByteStream, SocketAttribute, SocketStream, UNIXSocketStream
from anyio.lowlevel import RunVar
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from rlm.config import SandboxConfig
from rlm.errors import EngineUnavailable, SandboxDied, SandboxStartError
from rlm.logs import get_logger
from rlm.types import CellResult

from .attach import AttachedStream
from .base import Answer, LoadedValue, OnOutput
from .image import DIGEST_LABEL, source_digest
from .session import Session, Stream
from .spec import SOCKET_NAME, container_spec
from .values import Value

CELL_SECONDS: Final = 60.0
THREADS: Final = 4  # calls to the engine at once; more starts at once take as long
ENGINE_SECONDS: Final = 60.0  # for the engine to answer one request
GONE_POLL_SECONDS: Final = 0.02
SEND_BUFFER_BYTES: Final = 4 << 20  # so that both ends work at once on a large value; the kernel cuts it to its limit

T = TypeVar("T")

_log = get_logger("rlm.sandbox")
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("rlm_engine_threads")


class Engine:
    """One connection to a Docker engine. The client blocks, so each call runs in a thread.

    Every error of the client's is translated here.
    """

    def __init__(self, base_url: str | None, options: Mapping[str, Any]) -> None:
        self._base_url = base_url
        self._options = options
        self._client: docker.APIClient | None = None
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    async def call(self, request: Callable[[docker.APIClient], T], *, abandon: bool = False) -> T:
        """Run `request` with the client in a thread; `abandon` lets a deadline end the wait for it.

        Raises:
            EngineUnavailable: the engine does not answer.
            docker.errors.APIError: it answers with an error, which is the caller's to translate.
        """
        try:
            limiter = _limiter.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(THREADS)
            _limiter.set(limiter)
        return await anyio.to_thread.run_sync(
            lambda: self._guarded(request), limiter=limiter, abandon_on_cancel=abandon
        )

    def _guarded(self, request: Callable[[docker.APIClient], T]) -> T:
        try:
            return request(self._connected())
        except APIError:
            raise
        except (DockerException, requests.RequestException, OSError) as error:
            raise EngineUnavailable(
                f"The Docker engine does not answer at {self._base_url or 'its default socket'}: start it (`sudo systemctl "
                "start docker`, Docker Desktop, or `make setup`), or set DOCKER_HOST to one that runs."
            ) from error

    def _connected(self) -> docker.APIClient:
        with self._lock:
            if self._client is None:
                self._client = docker.APIClient(
                    base_url=self._base_url, version="auto", timeout=ENGINE_SECONDS, **self._options
                )
            return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    async def check_image(self, image: str) -> None:
        """Raises EngineUnavailable when the image is missing or was built from other sources."""
        if image in self._checked:
            return
        try:
            found = await self.call(lambda client: client.inspect_image(image))
        except ImageNotFound as error:
            raise EngineUnavailable(f"There is no sandbox image {image!r}: build it with `make image`.") from error
        labels = found["Config"].get("Labels") or {}
        if labels.get(DIGEST_LABEL) != source_digest():
            raise EngineUnavailable(
                f"The sandbox image {image!r} was built from other sources than this version of rlm: build it again with "
                "`make image`."
            )
        self._checked.add(image)

    async def attach(self, container: str) -> ByteStream:
        """The container's standard streams as one connection."""
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}

        def connect(client: docker.APIClient) -> socket.socket:
            opened = client.attach_socket(container, params=params)
            raw = getattr(opened, "_sock", None)
            if type(raw) is not socket.socket:
                raise EngineUnavailable(
                    "The engine is reached over TLS or SSH, whose connections cannot carry a sandbox's channel: use its "
                    "Unix socket (`ssh -L` can forward one), or a plain TCP address."
                )
            return socket.socket(fileno=raw.detach())  # out of the hands of the client, which would close it

        connection = await self.call(connect)
        if connection.family == socket.AF_UNIX:
            return await UNIXSocketStream.from_socket(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await SocketStream.from_socket(connection)


_engines: dict[str, Engine] = {}
_engines_lock = threading.Lock()


def default_engine() -> Engine:
    """The engine that the `docker` command would use: DOCKER_HOST, else the current context. One for the process."""
    with _engines_lock:
        key = f"{os.environ.get('DOCKER_HOST')} {os.environ.get('DOCKER_CONTEXT')}"
        if key not in _engines:
            _engines[key] = _make_engine()
            atexit.register(_engines[key].close)
        return _engines[key]


def _make_engine() -> Engine:
    if "DOCKER_HOST" in os.environ:
        options = docker.utils.kwargs_from_env()
        return Engine(options.pop("base_url", None), options)
    context = ContextAPI.get_current_context()
    host = context.Host if context is not None else None
    return Engine(host, {"tls": context.TLSConfig} if context is not None and context.TLSConfig else {})


class DockerSandbox:
    """A REPL in a container of its own; usable alone:

        async with Sandbox() as sandbox:
            result = await sandbox.run("print(1)")

    Args:
        config: the container's policy.
        run_id: of the run that it belongs to (label `rlm.run`).
        node: of the call tree (label `rlm.node`).
        depth: how many levels may be called below.
        context_bytes: size of the context that will be loaded; its memory grows with it.
        engine: None is the one that the `docker` command would use.

    Entering raises EngineUnavailable, SandboxStartError, or ConfigError.
    """

    def __init__(
        self,
        config: SandboxConfig | None = None,
        *,
        run_id: str = "",
        node: str = "0",
        depth: int = 0,
        context_bytes: int = 0,
        engine: Engine | None = None,
    ) -> None:
        self._config = config or SandboxConfig()
        self._labels = {"rlm.run": run_id, "rlm.node": node, **_owner()}
        self._name = f"rlm-{secrets.token_hex(8)}"
        self._depth = depth
        self._context_bytes = context_bytes
        self._engine = engine or default_engine()
        self._resources = AsyncExitStack()
        self._attached: AttachedStream | None = None
        self._session: Session
        self._id = ""

    @property
    def id(self) -> str:
        return self._id

    async def __aenter__(self) -> Self:
        await self._engine.check_image(self._config.image)
        async with AsyncExitStack() as opening:
            with anyio.move_on_after(self._config.start_seconds) as patience:
                await self._open(opening)
            if patience.cancelled_caught:
                raise SandboxStartError(
                    self._with_stderr(f"A sandbox did not start in {self._config.start_seconds:g} s")
                )
            self._resources = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def load(self, name: str, value: Value) -> LoadedValue:
        """Bind a variable; see `rlm.sandbox.base.Sandbox`."""
        try:
            return await self._session.load(name, value)
        except SandboxDied as error:
            await self._explain(error)

    async def run(
        self,
        code: str,
        *,
        seconds: float | None = None,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell, `CELL_SECONDS` of its own time unless said; see `rlm.sandbox.base.Sandbox`."""
        seconds = CELL_SECONDS if seconds is None else seconds
        try:
            return await self._session.run(code, seconds=seconds, answer=answer, on_output=on_output)
        except SandboxDied as error:
            await self._explain(error)

    async def _open(self, resources: AsyncExitStack) -> None:
        """Everything opened here is undone in reverse: the stream ends before the container is killed.

        An engine whose stream nobody reads would hang in kill and remove (moby issue; measured).
        """
        folder = None
        if self._config.transport == "unix":
            folder = await resources.enter_async_context(_socket_folder())
        spec = container_spec(
            self._config,
            name=self._name,
            labels=self._labels,
            context_bytes=self._context_bytes,
            socket_folder=None if folder is None else str(folder),
        )
        resources.push_async_callback(self._remove)
        try:
            created = await self._engine.call(
                lambda client: client.create_container_from_config(spec.arguments, self._name)
            )
            self._id = created["Id"]
            attached = AttachedStream(await self._engine.attach(self._name))
            resources.push_async_callback(attached.aclose)
            self._attached = attached
            stream: Stream = attached
            if folder is None:
                await self._engine.call(lambda client: client.start(self._name))
            else:
                stream = await self._accept(folder / SOCKET_NAME, resources)
        except APIError as error:
            raise SandboxStartError(f"The engine did not start a sandbox: {error.explanation or error}") from error
        self._session = Session(stream, self._config)
        try:
            await self._session.handshake(
                digest=source_digest(), depth=self._depth, worker_memory_bytes=spec.worker_memory_bytes
            )
        except SandboxDied as error:
            raise SandboxStartError(self._with_stderr("A sandbox ended while it started")) from error

    async def _accept(self, path: Path, resources: AsyncExitStack) -> SocketStream:
        """Start the container and take its one connection; after that there is no socket to connect to."""
        async with await anyio.create_unix_listener(path, mode=0o666) as listener:
            await self._engine.call(lambda client: client.start(self._name))
            connected: list[SocketStream] = []

            async def take(stream: SocketStream) -> None:
                raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - anyio's, not Django's
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                connected.append(stream)
                group.cancel_scope.cancel()

            async with anyio.create_task_group() as group:
                await listener.serve(take)
        os.unlink(path)
        resources.push_async_callback(anyio.aclose_forcefully, connected[0])
        return connected[0]

    async def _remove(self) -> None:
        """Shielded and bounded; whatever the moment, the container of this name is gone afterwards."""
        with anyio.move_on_after(self._config.stop_seconds, shield=True) as patience:
            try:
                await self._engine.call(
                    lambda client: client.remove_container(self._name, force=True, v=True), abandon=True
                )
            except NotFound:
                return
            except (APIError, EngineUnavailable) as error:
                if not (isinstance(error, APIError) and error.status_code == 409):  # 409: it is being removed already
                    _log.warning("sandbox_not_removed", container=self._name, reason=str(error))
                    return
            while await self._exists():  # noqa: ASYNC110 - the engine has no event that a deadline can bound
                await anyio.sleep(GONE_POLL_SECONDS)
        if patience.cancelled_caught:
            _log.warning("sandbox_not_removed", container=self._name, reason="the engine did not answer in time")

    async def _exists(self) -> bool:
        return await self._state() is not None

    async def _state(self) -> Mapping[str, Any] | None:
        try:
            found = await self._engine.call(lambda client: client.inspect_container(self._name), abandon=True)
        except NotFound:
            return None
        state: Mapping[str, Any] = found["State"]
        return state

    async def _explain(self, error: SandboxDied) -> NoReturn:
        """Say why a sandbox has ended, as far as it can still be found out."""
        raise SandboxDied(self._with_stderr(str(error).rstrip("."))) from error

    def _with_stderr(self, sentence: str) -> str:
        said = self._attached.stderr if self._attached is not None else ""
        return f"{sentence}: {said}" if said else f"{sentence}."


class DockerSandboxes:
    """Makes the sandboxes of runs: the `SandboxFactory` of containers."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config

    def __call__(self, *, run_id: str, node: str, depth: int, context_bytes: int) -> DockerSandbox:
        return DockerSandbox(self._config, run_id=run_id, node=node, depth=depth, context_bytes=context_bytes)


@asynccontextmanager
async def _socket_folder() -> AsyncIterator[Path]:
    """A folder for one socket. Its parent is this user's alone; the folder itself is what the container sees."""
    with tempfile.TemporaryDirectory(prefix="rlm-") as private:
        folder = Path(private, "channel")
        os.mkdir(folder, mode=0o755)
        yield folder


def _owner() -> dict[str, str]:
    """Labels that say which process a container belongs to, also after a restart of the machine."""
    labels = {"rlm.owner.pid": str(os.getpid())}
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.is_file():
        labels["rlm.owner.boot"] = boot.read_text().strip()
    return labels
