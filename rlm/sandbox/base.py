"""The seam between the loop and a sandbox."""

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
    """A cell asks for a model. Everything in it is the sandbox's word: data, never an instruction to the host.

    `call` is unique in the sandbox; `batch` groups the calls of one `llm_batch` (0: a single call). `context` is the
    value for a recursive call, still encoded: the host never needs to decode it.
    """

    call: int
    batch: int
    prompt: str
    context: Value | None
    model: str | None
    recurse: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryReply:
    """The text of the answer or, when not `ok`, the sentence that says why there is none."""

    ok: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedValue:
    """How the guest describes a value that it has loaded: its Python type and size (characters, bytes or items)."""

    type: str
    size: int


Answer = Callable[[SandboxQuery], Coroutine[Any, Any, QueryReply]]
OnOutput = Callable[[Literal["stdout", "stderr"], str], None]


class SandboxProtocol(Protocol):
    """One REPL, isolated. One cell at a time; after a `SandboxError` it is gone."""

    @property
    def id(self) -> str:
        """The container's id."""

    async def load(self, name: str, value: Value) -> LoadedValue:
        """Bind a variable of the REPL to a value.

        Raises:
            ConfigError: the value cannot be built there (undecodable, too large for the sandbox's memory).
            SandboxError: the sandbox is gone.
        """

    async def offer(self, tools: Tools) -> None:
        """Let cells call these functions of the host, instead of those offered before.

        Raises:
            SandboxError: the sandbox is gone.
        """

    async def run(
        self,
        code: str,
        *,
        seconds: float | None = None,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell. `answer` serves its queries, many at once (None: each is refused in words).

        `seconds` are the cell's own: time, but for the time in which calls of it wait for answers. Of that, only the
        processor time counts that the cell uses meanwhile, and a millisecond a call.

        When the cell ends before its queries do, what `answer` still works on is cancelled.

        Raises:
            SandboxDied, SandboxMisbehaved: the sandbox is gone.
        """


class SandboxFactory(Protocol):
    """Makes sandboxes; each is removed when its context ends, whatever happened."""

    def __call__(
        self, *, run_id: str, node: str, depth: int, context_bytes: int
    ) -> AbstractAsyncContextManager[SandboxProtocol]:
        """A sandbox for one RLM: `depth` is how many levels may be called below it; memory grows with the context."""


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
