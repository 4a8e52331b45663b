"""The blocking twin of a sandbox."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from rlm.config import SandboxConfig
from rlm.types import CellResult, Context

from .base import OnOutput
from .docker import DockerSandbox
from .values import encode


class BlockingSandbox:
    """A REPL in a container of its own, for code without an event loop:

        with BlockingSandbox() as sandbox:
            print(sandbox.run("print(1)").stdout)

    Errors as for `Sandbox`.
    """

    def __init__(self, config: SandboxConfig | None = None, *, context_bytes: int = 0) -> None:
        self._config = config
        self._context_bytes = context_bytes
        self._entered = ExitStack()
        self._portal: BlockingPortal
        self._sandbox: DockerSandbox

    def __enter__(self) -> Self:
        with ExitStack() as entering:
            self._portal = entering.enter_context(start_blocking_portal())
            sandbox = DockerSandbox(self._config, context_bytes=self._context_bytes)
            self._sandbox = entering.enter_context(self._portal.wrap_async_context_manager(sandbox))
            self._entered = entering.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()

    @property
    def id(self) -> str:
        """The container's id."""
        return self._sandbox.id

    def load(self, name: str, value: Context) -> None:
        """Bind a variable to text, bytes, plain data, or the contents of a `Path`."""
        self._portal.call(self._sandbox.load, name, encode(value))

    def run(self, code: str, *, seconds: float | None = None, on_output: OnOutput | None = None) -> CellResult:
        """Run one cell, `seconds` of its own time (60 unless said)."""
        return self._portal.call(lambda: self._sandbox.run(code, seconds=seconds, on_output=on_output))
