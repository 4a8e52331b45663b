"""Data types that all subpackages share. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
Outcome = Literal["ok", "error", "timeout", "died", "lost"]
StopReason = Literal[
    "final",
    "max_iterations",
    "max_lm_calls",
    "max_tokens",
    "max_cost_usd",
    "max_seconds",
    "max_rlms",
    "max_consecutive_errors",
    "stopped",
    "cancelled",
]

Context = str | bytes | Path | Sequence[Any] | Mapping[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of a conversation with a model."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Usage of model calls, as counted by the provider.

    Attributes:
        calls: number of calls.
        input_tokens: input tokens, including `cached_tokens`.
        output_tokens: output tokens, including `reasoning_tokens`.
        cached_tokens: input tokens that the provider read from its cache.
        reasoning_tokens: output tokens that the model reasoned with.
        cost_usd: cost in dollars; None if the price of any call is unknown.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = 0.0

    @property
    def total_tokens(self) -> int:
        """Input plus output tokens."""
        return self.input_tokens + self.output_tokens

    def since(self, earlier: Usage) -> Usage:
        """The usage added since an earlier count."""
        unknown = self.cost_usd is None or earlier.cost_usd is None
        return Usage(
            calls=self.calls - earlier.calls,
            input_tokens=self.input_tokens - earlier.input_tokens,
            output_tokens=self.output_tokens - earlier.output_tokens,
            cached_tokens=self.cached_tokens - earlier.cached_tokens,
            reasoning_tokens=self.reasoning_tokens - earlier.reasoning_tokens,
            cost_usd=None if unknown else (self.cost_usd or 0.0) - (earlier.cost_usd or 0.0),
        )

    def __add__(self, other: Usage) -> Usage:
        unknown = self.cost_usd is None or other.cost_usd is None
        return Usage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cost_usd=None if unknown else (self.cost_usd or 0.0) + (other.cost_usd or 0.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    """A model's reply.

    Attributes:
        text: what the model wrote, without its thinking.
        usage: usage of this call.
        model: name of the model.
        finish_reason: the provider's word, such as `stop` or `length` (cut off at the output limit).
        request_id: the provider's ID of the request, if any.
        thinking: reasoning that came with the reply. Recorded, but never run, answered or sent again.
    """

    text: str
    usage: Usage
    model: str
    finish_reason: str = "stop"
    request_id: str | None = None
    thinking: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """The result of one cell.

    Attributes:
        outcome: `ok`; `error` (an exception); `timeout`; `died` (its process); `lost` (its sandbox).
        stdout: head and tail of the output, with a line between them that states how many bytes are missing. Bytes that
            are not UTF-8 are escaped.
        stderr: the same for standard error.
        stdout_cut: bytes missing from `stdout`.
        stderr_cut: bytes missing from `stderr`.
        error: traceback of the exception, or how the cell's process ended.
        answer: the cell's final answer, if any.
        snapshot: whether the cell could be rolled back. False if the REPL's state is too large for a copy.
        seconds: run time of the cell, excluding time spent waiting for queries.
    """

    outcome: Outcome
    stdout: str = ""
    stderr: str = ""
    stdout_cut: int = 0
    stderr_cut: int = 0
    error: str = ""
    answer: str | None = None
    snapshot: bool = True
    seconds: float = 0.0

    @property
    def rolled_back(self) -> bool:
        """Whether variables have their values from before the cell."""
        return self.outcome in ("timeout", "died")


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPoint:
    """Where the clock, a person or a limit stopped the root before it had an answer.

    A replay stops at the same point. If the limit is raised, the work continues from there. Counts cover all
    questions of the run.

    Attributes:
        reason: why the root stopped.
        replies: replies received from the root model.
        cells: cells run by the root.
        requests: requests sent to the root model, including one in flight.
        queries: queries made by the root's cells, including those in flight.
        started: whether the root had a sandbox. Without one it had no last turn.
    """

    reason: StopReason
    replies: int
    cells: int
    requests: int
    queries: int
    started: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The answer to a question, with its usage and other counts. `str()` returns the answer.

    Attributes:
        answer: the answer.
        stop_reason: `final`, or the limit that ended the work (the answer is then the best one available), `stopped` (by
            `answer_now`), or `cancelled`.
        usage: usage of the whole call tree.
        by_model: usage by model name.
        by_node: usage by node of the call tree (`0`, `0.3`, `0.3.1`).
        seconds: time spent on the question.
        iterations: number of turns of the root.
        depth_reached: deepest level called; 0 is the root alone.
        sub_calls: number of model calls below the root.
        sandboxes: number of containers started.
        run_id: ID of the run.
        run_dir: its directory.
        unaccounted_calls: calls that were cut off or whose reply was lost. Their usage is unknown: `usage` excludes it, the
            provider may bill it, and the estimate counts against the limits.
        replayed_calls: calls served from the journal, in a resumed run.
        resent_calls: calls sent a second time because they were in flight when the run was interrupted.
        diverged: nodes of a resumed run that did not follow its journal.
    """

    answer: str
    stop_reason: StopReason
    usage: Usage
    by_model: Mapping[str, Usage] = field(default_factory=dict)
    by_node: Mapping[str, Usage] = field(default_factory=dict)
    seconds: float
    iterations: int
    depth_reached: int
    sub_calls: int
    sandboxes: int
    run_id: str
    run_dir: Path
    unaccounted_calls: int = 0
    replayed_calls: int = 0
    resent_calls: int = 0
    diverged: tuple[str, ...] = ()

    @property
    def cost(self) -> float | None:
        """The cost in dollars; None if a price is unknown."""
        return self.usage.cost_usd

    def __str__(self) -> str:
        return self.answer
