"""A sandbox for code without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from anyio.from_thread import BlockingPortal

from rlm._util.portal import FORKED, is_usable, open_portal
from rlm.config import SandboxConfig
from rlm.errors import ConfigError
from rlm.sandbox.docker.container import GET_BYTES, Sandbox
from rlm.sandbox.docker.engine import Engine
from rlm.types import CellResult, Context

from .base import LoadedValue, OnOutput, QueryReply, SandboxQuery
from .files import Listing
from .threads import Threads
from .tools import Tools
from .values import Value

MAX_CONCURRENT_ANSWERS: Final = 40  # threads for `answer`


class SyncSandbox:
    """A REPL in its own container, for code without an event loop:

        with SyncSandbox() as sandbox:
            print(sandbox.run("print(1)").stdout)

    Methods, arguments and errors are those of `Sandbox`. An event loop runs in a separate thread.

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
        ConfigError: The policy or a tool is invalid (on entering).
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
        self._create = partial(
            Sandbox,
            config,
            tools=tools,
            run_id=run_id,
            node=node,
            depth=depth,
            context_bytes=context_bytes,
            engine=engine,
        )
        self._threads = Threads(MAX_CONCURRENT_ANSWERS)
        self._entered = ExitStack()
        self._portal: BlockingPortal
        self._sandbox: Sandbox | None = None

    def __enter__(self) -> Self:
        with ExitStack() as entering:
            self._portal = entering.enter_context(open_portal())
            self._sandbox = entering.enter_context(self._portal.wrap_async_context_manager(self._create()))
            self._entered = entering.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if is_usable(self._portal):
            self._entered.close()
        else:
            self._entered.pop_all()
        self._sandbox = None

    @property
    def id(self) -> str:
        """The container's id."""
        return self._started().id

    def load(self, name: str, value: Value | Context) -> LoadedValue:
        """Bind a variable of the REPL; see `Sandbox.load`."""
        return self._portal.call(self._started().load, name, value)

    def offer(self, tools: Tools) -> None:
        """Let cells call these host functions; see `Sandbox.offer`."""
        self._portal.call(self._started().offer, tools)

    def put(self, path: str, content: str | bytes | Path) -> None:
        """Write a file into the working directory; see `Sandbox.put`."""
        self._portal.call(self._started().put, path, content)

    def get(self, path: str, *, max_bytes: int = GET_BYTES) -> bytes:
        """Read a regular file of the working directory; see `Sandbox.get`."""
        return self._portal.call(partial(self._started().get, path, max_bytes=max_bytes))

    def files(self) -> Listing:
        """List the regular files in the working directory; see `Sandbox.files`."""
        return self._portal.call(self._started().files)

    def reset(self) -> None:
        """Start over in the same container; see `Sandbox.reset`."""
        self._portal.call(self._started().reset)

    def run(
        self,
        code: str,
        *,
        seconds: float | None = None,
        answer: Callable[[SandboxQuery], QueryReply] | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell; see `Sandbox.run`.

        `answer` serves each query in a thread, up to 40 at once. Threads of earlier cells count until they return.
        `on_output` is called in the thread of the event loop.
        """
        sandbox = self._started()

        async def in_thread(query: SandboxQuery) -> QueryReply:
            assert answer is not None
            return await self._threads.run(partial(answer, query))

        return self._portal.call(
            lambda: sandbox.run(
                code, seconds=seconds, answer=None if answer is None else in_thread, on_output=on_output
            )
        )

    def _started(self) -> Sandbox:
        if self._sandbox is None:
            raise ConfigError("The sandbox has not been started: use it inside `with`.")
        if not is_usable(self._portal):
            raise ConfigError(FORKED)
        return self._sandbox
