"""What happens in a run, as typed events: to a callback, to `events.jsonl`, to the terminal.

Everything a sandbox or a model said arrives here unchanged; whoever shows it escapes it (see `console.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from .types import CellResult, StopReason, Usage

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Fields of every event: the run, the node and its parent (None for the root), order in the run, and time.

    `seq` counts the recorded events from 1 without gaps; `ts` is seconds since the epoch.
    """

    node: str = "0"
    run_id: str = field(default="", kw_only=True)
    seq: int = field(default=0, kw_only=True)
    ts: float = field(default=0.0, kw_only=True)

    @property
    def parent(self) -> str | None:
        """The node that called this one."""
        return self.node.rpartition(".")[0] or None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A completion begins."""

    query: str | None
    depth: int
    models: Mapping[int, str]
    context_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(Event):
    """A run that had been interrupted goes on; what follows repeats its events up to there. `recorded` calls are in the
    journal, `in_flight` of them without an answer.
    """

    recorded: int
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayDiverged(Event):
    """A request or query is not the recorded one: from here on, this node and all below it ask the network."""

    ordinal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReplayed(Event):
    """A recursive call is answered from the journal. `below` are the nodes of its tree that had called a model."""

    below: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAsked(Event):
    """A further question of a session; `context_bytes` of what comes with it, None where nothing does."""

    query: str
    context_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsRaised(Event):
    """The run has other limits from now on. Only those are told that are not what they were."""

    limits: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RLMStarted(Event):
    """An RLM has its sandbox and its context. `level` is 0 for the root, `depth` what may still be called below. Of a text
    `context_head` and `context_tail` are the first and last characters.
    """

    level: int
    depth: int
    model: str
    sandbox: str
    context_type: str
    context_size: int
    context_head: str = ""
    context_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLost(Event):
    """A sandbox died or misbehaved; a new one takes its place. `restored`: its cells have run again, so that it has the
    variables too.
    """

    sandbox: str
    reason: str
    replacement: str
    restored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(Event):
    """The root model of an RLM is asked for turn `turn` (from 1) of `of`; None is without limit."""

    turn: int
    of: int | None

    @property
    def told(self) -> str:
        """`turn 3 of 30`"""
        return f"turn {self.turn}" if self.of is None else f"turn {self.turn} of {self.of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReplied(Event):
    """A model call has been paid. `role`: it drove an RLM (`root`) or answered a plain sub-call (`sub`). `replayed`: it
    was paid before, and the reply is the journal's.
    """

    role: Literal["root", "sub"]
    model: str
    text: str
    finish_reason: str
    usage: Usage
    seconds: float
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFailed(Event):
    """A model call gave no usable reply, after the client's retries. `usage` is set where it was billed all the same."""

    role: Literal["root", "sub"]
    model: str
    error: str
    usage: Usage | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted(Event):
    """The conversation of an RLM, so many messages in all, has been made shorter: `summary` stands for the older turns."""

    messages: int
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStarted(Event):
    """A cell (numbered from 1 in its RLM) runs."""

    cell: int
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutput(Event):
    """Output of a running cell, as it appears. Not recorded, as `CellFinished` holds it all; `seq` is that of the event
    recorded before it.
    """

    cell: int
    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFinished(Event):
    """A cell has ended."""

    cell: int
    result: CellResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUsed(Event):
    """A cell has called a function of the host; long arguments are cut."""

    tool: str
    arguments: str
    ok: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallStarted(Event):
    """A cell of the parent calls a model (`recursive`: as an RLM). `batch` groups one `llm_batch`, 0 is a single call."""

    prompt: str
    model: str
    recursive: bool
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallFinished(Event):
    """The answer (or, when not `ok`, the reason why there is none) goes back to the parent's cell."""

    ok: bool
    text: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RLMFinished(Event):
    """An RLM has its answer."""

    answer: str
    stop_reason: StopReason
    iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run is over. `error` is set instead of an answer when it failed or was cancelled."""

    stop_reason: StopReason | None
    usage: Usage
    seconds: float
    error: str | None = None


OnEvent = Callable[[Event], None]
