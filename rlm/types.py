"""The data that flows between the parts. Imports nothing of the package."""

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
    """One message of a conversation with a model."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What model calls used, as the provider counted it.

    `cached_tokens` are part of `input_tokens`, `reasoning_tokens` part of `output_tokens`. `cost_usd` is None when the
    price of any call in the sum is unknown.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = 0.0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def since(self, earlier: Usage) -> Usage:
        """What was used after an earlier state of the same count."""
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
    """One reply of a model. `finish_reason` is the provider's word (`stop`, `length`, ...)."""

    text: str
    usage: Usage
    model: str
    finish_reason: str = "stop"
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What one cell did.

    `stdout` and `stderr` hold the head and the tail of long output, with a line between them that says how many bytes
    were cut there; `stdout_cut` and `stderr_cut` are those numbers. Bytes that are not UTF-8 are shown escaped. `error` is
    the traceback of an exception, or how the cell's process ended. `rolled_back`: variables are those from before the cell.
    `answer` is the final answer that the cell gave. `snapshot` is false where the REPL's state was too large for a
    second copy. `seconds` is the cell's own time, without waiting for queries.
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
        return self.outcome in ("timeout", "died")


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPoint:
    """Where the root's work on a question was ended: by the clock or a person, which a replay has to end at the same place,
    or by a limit of the run. Where a limit is raised, the work goes on from there.

    So many `replies` of its model had come by then, and so many `cells` had run, over all questions; `requests` and
    `queries` of cells are counted with those that were under way. Where it had not even `started`, there was no last turn.
    """

    reason: StopReason
    replies: int
    cells: int
    requests: int
    queries: int
    started: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a run gave. `str()` of it is the answer.

    `usage` is the whole tree's, `by_model` and `by_node` break it down. `cost` is in dollars, None when a price is
    unknown. `iterations` counts the root's turns, `depth_reached` the deepest level at which something was called
    (0: the root alone), `sub_calls` the model calls below the root, `sandboxes` the containers. `unaccounted_calls` were
    sent, then cut off or their replies lost: they are not in `usage`, as nobody knows what they used. They may be billed,
    and count against the limits as estimated.

    Of a run that was resumed: `replayed_calls` were served from its journal; `resent_calls` were sent a second time, as they
    were in flight when it was interrupted; `diverged` are the nodes that took another way than the journal's.
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
        return self.usage.cost_usd

    def __str__(self) -> str:
        return self.answer
