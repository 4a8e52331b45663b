"""The interface between the loop and a sandbox. Another engine implements `SandboxFactory` and `SandboxProtocol`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rlm.protocol.messages import Kind
from rlm.types import CellResult

from .tools import Tools
from .values import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxQuery:
    """A model call that a cell made. Every field comes from untrusted code.

    Attributes:
        call: Number of the call, unique in the sandbox.
        batch: Groups the calls of one `llm_batch`; 0 is a single call.
        prompt: Text for the model.
        context: Value for a recursive call, still encoded: the host never decodes it.
        model: Name of the requested model. None leaves the choice to the run.
        recurse: Whether an RLM should answer. None leaves the choice to the run.
    """

    call: int
    batch: int
    prompt: str
    context: Value | None
    model: str | None
    recurse: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryReply:
    """The answer to a query. If not `ok`, `text` is the error message."""

    ok: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedValue:
    """How the guest describes a value it loaded: its Python type and size (characters, bytes or items)."""

    type: str
    size: int


Answer = Callable[[SandboxQuery], Coroutine[Any, Any, QueryReply]]
OnOutput = Callable[[Literal["stdout", "stderr"], str], None]


class SandboxProtocol(Protocol):
    """One isolated REPL. It runs one cell at a time. After a `SandboxError` it is unusable."""

    @property
    def id(self) -> str:
        """Identifies the sandbox, for example by its container id."""

    async def load(self, name: str, value: Value) -> LoadedValue:
        """Bind a variable of the REPL to a value.

        Raises:
            ConfigError: The guest cannot build the value (undecodable, or too large for the sandbox's memory).
            SandboxError: The sandbox is gone.
        """

    async def offer(self, tools: Tools) -> None:
        """Let cells call these host functions. They replace those of an earlier call.

        Raises:
            SandboxError: The sandbox is gone.
        """

    async def run(
        self,
        code: str,
        *,
        seconds: float | None = None,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell. Pending `answer` calls are cancelled when the cell ends.

        Args:
            code: Python source of the cell.
            seconds: Time limit of the cell. While calls are pending, only the cell's processor time and a
                millisecond per call count.
            answer: Serves model calls, many at once. None rejects each of them.
            on_output: Receives output as it appears.

        Raises:
            SandboxDied, SandboxMisbehaved: The sandbox is gone.
        """


class SandboxFactory(Protocol):
    """Creates sandboxes. Each one is removed when its context ends, whatever happened."""

    def __call__(
        self, *, run_id: str, node: str, depth: int, context_bytes: int
    ) -> AbstractAsyncContextManager[SandboxProtocol]:
        """Create the sandbox of one RLM.

        Args:
            run_id: Id of the run.
            node: Place of the RLM in the call tree.
            depth: Call levels below it.
            context_bytes: Size of its context; the sandbox's memory grows with it.
        """


__all__ = [
    "Answer",
    "Kind",
    "LoadedValue",
    "OnOutput",
    "QueryReply",
    "SandboxFactory",
    "SandboxProtocol",
    "SandboxQuery",
]
