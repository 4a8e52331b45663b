"""The blocking twin of a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from rlm.config import SandboxConfig
from rlm.errors import ConfigError
from rlm.sandbox.docker.container import GET_BYTES, Sandbox
from rlm.types import CellResult, Context

from .base import LoadedValue, OnOutput, QueryReply, SandboxQuery
from .files import Listing
from .threads import Threads
from .values import Value

ANSWERS_AT_ONCE: Final = 40


class SyncSandbox:
    """A REPL in a container of its own, for code without an event loop:

        with SyncSandbox() as sandbox:
            print(sandbox.run("print(1)").stdout)

    Arguments and errors are those of `Sandbox`. It runs an event loop in a thread of its own.
    """

    def __init__(
        self,
        config: SandboxConfig | None = None,
        *,
        tools: Mapping[str, Callable[..., object]] | None = None,
        depth: int = 0,
        context_bytes: int = 0,
    ) -> None:
        self._config = config
        self._tools = tools
        self._depth = depth
        self._context_bytes = context_bytes
        self._threads = Threads(ANSWERS_AT_ONCE)
        self._entered = ExitStack()
        self._portal: BlockingPortal
        self._sandbox: Sandbox | None = None

    def __enter__(self) -> Self:
        with ExitStack() as entering:
            self._portal = entering.enter_context(start_blocking_portal())
            sandbox = Sandbox(self._config, tools=self._tools, depth=self._depth, context_bytes=self._context_bytes)
            self._sandbox = entering.enter_context(self._portal.wrap_async_context_manager(sandbox))
            self._entered = entering.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()
        self._sandbox = None

    @property
    def id(self) -> str:
        """The container's id."""
        return self._started().id

    def load(self, name: str, value: Value | Context) -> LoadedValue:
        """Bind a variable to text, bytes, plain data, or the contents of a `Path`."""
        return self._portal.call(self._started().load, name, value)

    def put(self, path: str, content: str | bytes | Path) -> None:
        """Write a file into the working directory."""
        self._portal.call(self._started().put, path, content)

    def get(self, path: str, *, max_bytes: int = GET_BYTES) -> bytes:
        """A regular file of the working directory."""
        return self._portal.call(lambda: self._started().get(path, max_bytes=max_bytes))

    def files(self) -> Listing:
        """Path and size in bytes of the files in the working directory."""
        return self._portal.call(self._started().files)

    def reset(self) -> None:
        """Begin anew in the same container."""
        self._portal.call(self._started().reset)

    def run(
        self,
        code: str,
        *,
        seconds: float | None = None,
        answer: Callable[[SandboxQuery], QueryReply] | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell, `seconds` of its own time (60 unless said).

        `answer` serves its queries, each in a thread, 40 at once with those that ended cells have left; `on_output` is
        called in the thread of the event loop.
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
            raise ConfigError("The sandbox has not been started: use it inside of `with`.")
        return self._sandbox
