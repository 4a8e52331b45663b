"""A sandbox in a Docker container, which is removed when the sandbox's context ends, even after an error."""

from __future__ import annotations

import itertools
import random
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

import anyio
from anyio.abc import SocketAttribute, SocketStream

from rlm._util.logs import get_logger
from rlm.config import MIB, SandboxConfig
from rlm.errors import ConfigError, EngineUnavailable, SandboxDied, SandboxError, SandboxMisbehaved, SandboxStartError
from rlm.sandbox.base import Answer, LoadedValue, OnOutput
from rlm.sandbox.channel import Stream
from rlm.sandbox.files import Listing
from rlm.sandbox.session import Session
from rlm.sandbox.tools import Tools
from rlm.sandbox.values import Value, encode, encode_raw
from rlm.types import CellResult, Context

from .attach import AttachedStream
from .engine import Engine, default_engine
from .image import image_name, seccomp_profile, source_digest
from .owner import owner_labels
from .sockets import enlarge
from .spec import SOCKET_NAME, UIDS, ContainerSpec, container_spec

CELL_SECONDS: Final = 60.0  # default time limit of a cell
GET_BYTES: Final = 64 * MIB  # default limit for a file: as much as a sandbox can write by default
RUN_ID_CHARS: Final = 40  # characters of the run's ID in the container's name

_log = get_logger("rlm.sandbox")
_uids = itertools.cycle(UIDS[random.randrange(len(UIDS)) :])  # noqa: S311 - not secret; only has to differ


class Sandbox:
    """A REPL in its own container, also usable without a run:

        async with Sandbox() as sandbox:
            result = await sandbox.run("print(1)")

    Args:
        config: Policy of the container. None uses the defaults.
        tools: Host functions that cells may call by name (see `rlm.sandbox.tools.Tools`).
        run_id: Id of the run (label `rlm.run`).
        node: Place in the call tree (label `rlm.node`).
        depth: Call levels below.
        context_bytes: Size of the context to load. The memory limit grows with it.
        engine: Docker engine. None uses the engine of the `docker` command.

    Raises:
        EngineUnavailable: No Docker engine answers, or it lacks the image or the runtime (on entering).
        SandboxStartError: The container did not start (on entering).
        ConfigError: The policy or a tool is invalid.
    """

    def __init__(
        self,
        config: SandboxConfig | None = None,
        *,
        tools: Mapping[str, Callable[..., object]] | None = None,
        run_id: str = "",
        node: str = "0",
        depth: int = 0,
        context_bytes: int = 0,
        engine: Engine | None = None,
    ) -> None:
        self._config = config or SandboxConfig()
        self._image = self._config.image or image_name()
        self._tools = Tools(tools or {}, seconds=self._config.tool_seconds)
        self._labels = {"rlm.run": run_id, "rlm.node": node, **owner_labels()}
        self._prefix = f"rlm-{re.sub('[^a-zA-Z0-9_.-]', '-', run_id)[:RUN_ID_CHARS]}"
        self._name = ""
        self._depth = depth
        self._context_bytes = context_bytes
        self._engine = engine or default_engine()
        self._resources = AsyncExitStack()
        self._attached: AttachedStream | None = None
        self._session: Session | None = None
        self._id = ""

    @property
    def id(self) -> str:
        """The container's id; empty before the start."""
        return self._id

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except (EngineUnavailable, SandboxStartError) as error:
            # A restarting engine does not answer, or ends containers that it has just started.
            transient = isinstance(error, EngineUnavailable) or isinstance(error.__cause__, SandboxDied)
            if not transient or not await self._engine.wait_for_restart():
                raise
            await self._start()
        return self

    async def _start(self) -> None:
        # We choose the name, so that we can remove the container even if the engine's answer with its ID never arrives.
        self._name = f"{self._prefix}-{secrets.token_hex(8)}"
        await self._engine.remove_orphans(seconds=self._config.stop_seconds)
        await self._engine.check_runtime(self._config.runtime)
        await self._engine.check_image(self._image)
        async with AsyncExitStack() as opening, self._engine.starts:
            with anyio.move_on_after(self._config.start_seconds) as timeout:
                await self._open(opening)
            if timeout.cancelled_caught:
                raise SandboxStartError(
                    self._with_stderr(f"The sandbox did not start within {self._config.start_seconds:g} s")
                )
            if self._tools:
                await self.offer(self._tools)
            self._resources = opening.pop_all()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def load(self, name: str, value: Value | Context) -> LoadedValue:
        """Bind a variable of the REPL.

        Args:
            name: Python identifier.
            value: Text, bytes, plain data, or a `Path` whose contents are loaded.

        Raises:
            ConfigError: The name or value is invalid, or the value exceeds the sandbox's memory.
            SandboxError: The sandbox is gone.
        """
        encoded = value if isinstance(value, Value) else encode(value)
        async with self._active_session() as session:
            return await session.load(name, encoded)

    async def offer(self, tools: Tools) -> None:
        """Let cells call these host functions. They replace those of an earlier call.

        Raises:
            SandboxError: The sandbox is gone.
        """
        async with self._active_session() as session:
            await session.offer(tools)

    async def put(self, path: str, content: str | bytes | Path) -> None:
        """Write a file into the working directory of the sandbox.

        The sandbox gets a copy: it never changes the host's file.

        Args:
            path: Relative path with `/` between parts, none of them `.` or `..`. Missing folders are created.
            content: Text (written as UTF-8), bytes, or a file of the host.

        Raises:
            ConfigError: The path is invalid, or the file does not fit (SandboxConfig.tmp_bytes).
            SandboxError: The sandbox is gone.
        """
        value = encode_raw(content) if isinstance(content, Path) else encode(content)
        if value.kind == "folder":
            raise ConfigError(f"{content!s} is a folder: put its files one by one, or use load().")
        async with self._active_session() as session:
            await session.put(path, value)

    async def get(self, path: str, *, max_bytes: int = GET_BYTES) -> bytes:
        """Read a regular file of the working directory. Links are never followed, not even in its folders.

        Args:
            path: Relative path, as for `put`.
            max_bytes: Limit on the size of the file, in bytes.

        Raises:
            ConfigError: The file does not exist, is not a regular file, or exceeds `max_bytes`.
            SandboxError: The sandbox is gone.
        """
        async with self._active_session() as session:
            return await session.get(path, max_bytes=max_bytes)

    async def files(self) -> Listing:
        """List the regular files in the working directory: a dict of path to size in bytes.

        It has at most 10,000 entries; `Listing.skipped` counts the other files.

        Raises:
            SandboxError: The sandbox is gone.
        """
        async with self._active_session() as session:
            return await session.files()

    async def reset(self) -> None:
        """Start over in the same container: no variable, file, process or memory of earlier cells remains.

        A reset takes a third of the time of a new container. Use it between scripts of the same author. Between
        authors, use a new container: that also discards the effects of an attack on the guest itself.

        Raises:
            SandboxError: The sandbox is gone.
        """
        async with self._active_session() as session:
            await session.reset()

    async def run(
        self,
        code: str,
        *,
        seconds: float | None = None,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell. Variables persist from cell to cell.

        Args:
            code: Python source of the cell.
            seconds: Time limit of the cell in seconds; None means 60. While calls are pending, only the cell's
                processor time and a millisecond per call count.
            answer: Serves model calls, many at once. None rejects each of them.
            on_output: Receives the stream name and the text of output as it appears.

        Returns:
            Outcome, output and final answer. An exception in the cell is a result, not an error.

        Raises:
            ConfigError: `seconds` is invalid.
            SandboxDied, SandboxMisbehaved: The sandbox is gone.
        """
        seconds = CELL_SECONDS if seconds is None else seconds
        async with self._active_session() as session:
            return await session.run(code, seconds=seconds, answer=answer, on_output=on_output)

    @asynccontextmanager
    async def _active_session(self) -> AsyncIterator[Session]:
        """Yield the session. If the session fails, remove the container at once and raise an error with the reason."""
        if self._session is None:
            raise ConfigError("The sandbox has not been started: use it inside `async with`.")
        try:
            yield self._session
        except SandboxError as error:
            await self._fail(error)

    async def _open(self, resources: AsyncExitStack) -> None:
        """Open everything in the order that clean-up reverses: streams are closed before the container is killed.

        An engine whose attached stream is full hangs in kill and remove until someone reads or closes the stream.
        """
        unix = self._config.transport == "unix"
        until_connected = resources.enter_context(ExitStack())
        folder = until_connected.enter_context(_socket_folder()) if unix else None
        spec = container_spec(
            self._config,
            name=self._name,
            image=self._image,
            uid=next(_uids),
            labels=self._labels,
            seccomp=seccomp_profile(),
            context_bytes=self._context_bytes,
            socket_folder=None if folder is None else str(folder),
        )
        resources.push_async_callback(self._remove)
        self._id = await self._engine.create(spec)
        self._attached = AttachedStream(await self._engine.attach(self._name, stdin=not unix))
        resources.push_async_callback(self._attached.aclose)
        try:
            if folder is None:
                await self._engine.start(self._name)
                self._session = await self._open_session(self._attached, spec)
            else:
                stream = await self._accept(folder / SOCKET_NAME, self._attached, resources)
                until_connected.close()  # the mounted folder is empty by now, and disappears from the host
                self._session = await self._open_session(stream, spec)
        except (SandboxDied, SandboxMisbehaved) as error:
            reason = await self._reason() if isinstance(error, SandboxDied) else str(error).rstrip(".")
            raise SandboxStartError(self._with_stderr(f"The sandbox failed to start: {reason}")) from error

    async def _open_session(self, stream: Stream, spec: ContainerSpec) -> Session:
        session = Session(stream, self._config)
        await session.handshake(digest=source_digest(), depth=self._depth, worker_memory_bytes=spec.worker_memory_bytes)
        return session

    async def _accept(self, path: Path, attached: AttachedStream, resources: AsyncExitStack) -> SocketStream:
        """Start the container and accept its one connection, then stop listening."""
        stream: SocketStream | None = None
        try:
            listener = await anyio.create_unix_listener(path, mode=0o666)
        except OSError as error:
            raise SandboxStartError(f"Cannot create the sandbox socket {path}: {error.strerror}.") from error
        async with listener:
            await self._engine.start(self._name)

            async def stop_at_end() -> None:
                await attached.drain()
                group.cancel_scope.cancel()

            async with anyio.create_task_group() as group:
                group.start_soon(stop_at_end)
                stream = await listener.accept()
                resources.push_async_callback(anyio.aclose_forcefully, stream)
                group.cancel_scope.cancel()
        if stream is None:
            raise SandboxDied("The sandbox has ended.")
        enlarge(stream.extra(SocketAttribute.raw_socket))  # noqa: S610 - anyio's extra, not Django's
        return stream

    async def _remove(self) -> None:
        problem = await self._engine.remove(self._name, seconds=self._config.stop_seconds)
        if problem:
            _log.warning("sandbox_not_removed", container=self._name, reason=problem)

    async def _fail(self, error: SandboxError) -> NoReturn:
        """Remove the container at once and raise an error with the reason. An error without a cause has its reason."""
        ended = isinstance(error, SandboxDied) and error.__cause__ is not None
        reason = await self._reason() if ended else ""
        await self._resources.aclose()
        if ended:
            raise SandboxDied(self._with_stderr(f"The sandbox has ended: {reason}")) from error
        raise error

    async def _reason(self) -> str:
        with anyio.move_on_after(self._config.stop_seconds):
            if self._attached is not None:
                await self._attached.drain()
            return await self._engine.exit_reason(self._id)
        return "the engine gave no reason"

    def _with_stderr(self, sentence: str) -> str:
        stderr = self._attached.stderr if self._attached is not None else ""
        return f"{sentence}. Its last output: {stderr}" if stderr else f"{sentence}."


class DockerSandboxes:
    """Creates the sandboxes of runs: the `SandboxFactory` for Docker."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config

    def __call__(self, *, run_id: str, node: str, depth: int, context_bytes: int) -> Sandbox:
        return Sandbox(self._config, run_id=run_id, node=node, depth=depth, context_bytes=context_bytes)


@contextmanager
def _socket_folder() -> Iterator[Path]:
    """Create a folder for one socket. Only this user can enter its parent; the container sees the folder itself."""
    with tempfile.TemporaryDirectory(prefix="rlm-") as private:
        folder = Path(private, "channel")
        folder.mkdir()
        folder.chmod(0o755)
        yield folder
