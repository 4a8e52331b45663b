"""A sandbox as a Docker container: started, used, and removed whatever happens."""

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
from rlm.sandbox.files import Listing
from rlm.sandbox.session import Session, Stream
from rlm.sandbox.tools import Tools
from rlm.sandbox.values import Value, encode
from rlm.types import CellResult, Context

from .attach import AttachedStream
from .engine import Engine, default_engine
from .image import image_name, seccomp_profile, source_digest
from .owner import owner_labels
from .sockets import enlarge
from .spec import SOCKET_NAME, UIDS, ContainerSpec, container_spec

CELL_SECONDS: Final = 60.0
GET_BYTES: Final = 64 * MIB  # of a file, unless said: as much as a sandbox can write by default
NAME_CHARS: Final = 40  # of a run's id in a container's name

_log = get_logger("rlm.sandbox")
_uids = itertools.cycle(UIDS[random.randrange(len(UIDS)) :])  # noqa: S311 - not secret, only each its own


class Sandbox:
    """A REPL in a container of its own; usable alone:

        async with Sandbox() as sandbox:
            result = await sandbox.run("print(1)")

    Args:
        config: the container's policy.
        tools: functions of the host that cells may call by name (see `rlm.sandbox.tools.Tools`).
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
        self._prefix = f"rlm-{re.sub('[^a-zA-Z0-9_.-]', '-', run_id)[:NAME_CHARS]}"
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
        return self._id

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except (EngineUnavailable, SandboxStartError) as error:
            # An engine that is being restarted does not answer, or ends what it has just started.
            passing = isinstance(error, EngineUnavailable) or isinstance(error.__cause__, SandboxDied)
            if not passing or not await self._engine.has_come_back():
                raise
            await self._start()
        return self

    async def _start(self) -> None:
        # Named here, so that it can be removed whatever is known of it.
        self._name = f"{self._prefix}-{secrets.token_hex(8)}"
        await self._engine.remove_orphans(seconds=self._config.stop_seconds)
        await self._engine.check_runtime(self._config.runtime)
        await self._engine.check_image(self._image)
        async with AsyncExitStack() as opening, self._engine.starts:
            with anyio.move_on_after(self._config.start_seconds) as patience:
                await self._open(opening)
            if patience.cancelled_caught:
                raise SandboxStartError(
                    self._with_stderr(f"A sandbox did not start in {self._config.start_seconds:g} s")
                )
            if self._tools:
                await self.offer(self._tools)
            self._resources = opening.pop_all()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def load(self, name: str, value: Value | Context) -> LoadedValue:
        """Bind a variable to text, bytes, plain data, or the contents of a `Path`; see `rlm.sandbox.base.Sandbox`."""
        encoded = value if isinstance(value, Value) else encode(value)
        async with self._using() as session:
            return await session.load(name, encoded)

    async def offer(self, tools: Tools) -> None:
        """Let cells call functions of the host; see `rlm.sandbox.base.Sandbox`."""
        async with self._using() as session:
            await session.offer(tools)

    async def put(self, path: str, content: str | bytes | Path) -> None:
        """Write a file into the working directory, where cells find it under this relative path.

        It is a copy: nothing that happens there changes the host's file.

        Args:
            path: relative and plain: parts divided by `/`, none of them `.` or `..`. Folders are made.
            content: text (as UTF-8), bytes, or a file of the host.

        Raises:
            ConfigError: the path cannot be, or there is no room (SandboxConfig.tmp_bytes).
            SandboxError: the sandbox is gone.
        """
        value = encode(content)
        if value.kind == "folder":
            raise ConfigError(f"{content!s} is a folder: put its files one by one, or load it as a value.")
        async with self._using() as session:
            await session.put(path, value)

    async def get(self, path: str, *, max_bytes: int = GET_BYTES) -> bytes:
        """A regular file of the working directory. No link is followed, in its folders neither.

        Raises:
            ConfigError: there is no such file, or it has more than `max_bytes`.
            SandboxError: the sandbox is gone.
        """
        async with self._using() as session:
            return await session.get(path, max_bytes=max_bytes)

    async def files(self) -> Listing:
        """Path and size in bytes of the regular files in the working directory.

        A dict of 10,000 at most; its `left_out` says how many more there are.
        """
        async with self._using() as session:
            return await session.files()

    async def reset(self) -> None:
        """Begin anew in the same container: no variable, file, process or memory of earlier cells is left.

        It takes a third of the time of a new container, and is for one party's code. Between parties take a new
        container: it also leaves behind what an attack on the guest itself might have come to.
        """
        async with self._using() as session:
            await session.reset()

    async def run(
        self,
        code: str,
        *,
        seconds: float | None = None,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell.

        Args:
            code: what to run.
            seconds: of the cell's own time, `CELL_SECONDS` unless said. While its calls wait for answers, only the
                processor time counts that the cell uses meanwhile, and a millisecond a call.
            answer: serves its queries, many at once; without it each is refused in words.
            on_output: is told the output as it comes.

        Raises:
            SandboxDied, SandboxMisbehaved: the sandbox is gone.
        """
        seconds = CELL_SECONDS if seconds is None else seconds
        async with self._using() as session:
            return await session.run(code, seconds=seconds, answer=answer, on_output=on_output)

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[Session]:
        """The session. Where it ends in an error, the container is removed at once, and the error says why."""
        if self._session is None:
            raise ConfigError("The sandbox has not been started: use it inside of `async with`.")
        try:
            yield self._session
        except SandboxError as error:
            await self._lost(error)

    async def _open(self, resources: AsyncExitStack) -> None:
        """Everything opened here is undone in reverse: the streams end before the container is killed.

        An engine whose attached stream is full hangs in kill and remove for as long as nobody reads or closes it.
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
                self._session = await self._greet(self._attached, spec)
            else:
                stream = await self._accept(folder / SOCKET_NAME, self._attached, resources)
                until_connected.close()  # a mounted folder that is empty, and from here on nowhere to be found
                self._session = await self._greet(stream, spec)
        except (SandboxDied, SandboxMisbehaved) as error:
            reason = await self._reason() if isinstance(error, SandboxDied) else str(error).rstrip(".")
            raise SandboxStartError(self._with_stderr(f"A sandbox failed while it started: {reason}")) from error

    async def _greet(self, stream: Stream, spec: ContainerSpec) -> Session:
        session = Session(stream, self._config)
        await session.handshake(digest=source_digest(), depth=self._depth, worker_memory_bytes=spec.worker_memory_bytes)
        return session

    async def _accept(self, path: Path, attached: AttachedStream, resources: AsyncExitStack) -> SocketStream:
        """Start the container and take its one connection; after that nobody listens."""
        stream: SocketStream | None = None
        try:
            listener = await anyio.create_unix_listener(path, mode=0o666)
        except OSError as error:
            raise SandboxStartError(f"The socket {path} for a sandbox cannot be made: {error.strerror}.") from error
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

    async def _lost(self, error: SandboxError) -> NoReturn:
        """Remove the container at once, and say why it has ended; an error without a cause says all there is to say."""
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
            return await self._engine.cause_of_end(self._id)
        return "the engine does not say why"

    def _with_stderr(self, sentence: str) -> str:
        said = self._attached.stderr if self._attached is not None else ""
        return f"{sentence}. It said: {said}" if said else f"{sentence}."


class DockerSandboxes:
    """Makes the sandboxes of runs: the `SandboxFactory` of containers."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config

    def __call__(self, *, run_id: str, node: str, depth: int, context_bytes: int) -> Sandbox:
        return Sandbox(self._config, run_id=run_id, node=node, depth=depth, context_bytes=context_bytes)


@contextmanager
def _socket_folder() -> Iterator[Path]:
    """A folder for one socket. Its parent is this user's alone; the folder itself is what the container sees."""
    with tempfile.TemporaryDirectory(prefix="rlm-") as private:
        folder = Path(private, "channel")
        folder.mkdir()
        folder.chmod(0o755)
        yield folder
