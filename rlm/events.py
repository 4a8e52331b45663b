"""The events of a run: typed data for callbacks, `events.jsonl` and the terminal. Imports types.

Texts of sandboxes and models are untrusted and arrive unchanged. Whoever shows them has to escape them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from .types import CellResult, StopReason, Usage

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The fields of every event.

    Attributes:
        node: place in the tree of calls, such as `0.3.1`; `0` is the root.
        run_id: ID of the run.
        seq: number of the event in the run, from 1 without gaps.
        ts: time in seconds since the epoch.
    """

    node: str = "0"
    run_id: str = field(default="", kw_only=True)
    seq: int = field(default=0, kw_only=True)
    ts: float = field(default=0.0, kw_only=True)

    @property
    def parent(self) -> str | None:
        """The node that called this one; None for the root."""
        return self.node.rpartition(".")[0] or None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run starts.

    Attributes:
        query: the question; None if the context contains it.
        depth: levels below the root that may be called.
        models: names of the models, by level.
        context_bytes: size of the context.
    """

    query: str | None
    depth: int
    models: Mapping[int, str]
    context_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(Event):
    """A run resumes. The events that follow repeat its events up to the interruption.

    Attributes:
        recorded: calls in the journal.
        in_flight: recorded calls without an outcome.
    """

    recorded: int
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayDiverged(Event):
    """A node diverged from the recording. It and all nodes below it continue with live calls.

    Attributes:
        ordinal: number of the first live call at the node, from 1.
    """

    ordinal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReplayed(Event):
    """The journal answers a recursive call.

    Attributes:
        below: nodes below the call that called a model.
    """

    below: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAsked(Event):
    """A session asks a further question.

    Attributes:
        query: the question.
        context_bytes: size of its context; None for a question without one.
    """

    query: str
    context_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsRaised(Event):
    """Limits of the run have changed.

    Attributes:
        limits: new values of the changed limits, by name; None is no limit.
    """

    limits: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RLMStarted(Event):
    """An RLM starts, with its context in its sandbox.

    Attributes:
        level: levels below the root; 0 is the root.
        depth: levels that it may call below itself.
        model: name of its model.
        sandbox: ID of its container.
        context_type: Python type of the context in the sandbox.
        context_size: length of the context in characters (text), bytes or items.
        context_head: first characters of a text; empty for the root.
        context_tail: last characters of a text; empty for the root.
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
    """A sandbox died or misbehaved, and a new one replaces it.

    Attributes:
        sandbox: ID of the lost one.
        reason: why the sandbox was lost.
        replacement: ID of the new one.
        restored: whether running the cells again restored all variables in the new one.
    """

    sandbox: str
    reason: str
    replacement: str
    restored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(Event):
    """An RLM takes a turn.

    Attributes:
        turn: number of the turn, from 1.
        of: the RLM's limit on turns; None is no limit.
    """

    turn: int
    of: int | None

    @property
    def label(self) -> str:
        """`turn 3 of 30`"""
        return f"turn {self.turn}" if self.of is None else f"turn {self.turn} of {self.of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReplied(Event):
    """A model call returned a reply.

    Attributes:
        role: `root` drives an RLM, `sub` answers a plain sub-call.
        model: name of the model.
        text: the reply, without its thinking.
        finish_reason: the provider's word, such as `stop` or `length`.
        usage: usage of the call.
        seconds: time from sending the request to the reply.
        replayed: whether the reply came from the journal or the cache, and so is not billed.
        thinking: reasoning that came with the reply; empty without any.
    """

    role: Literal["root", "sub"]
    model: str
    text: str
    finish_reason: str
    usage: Usage
    seconds: float
    replayed: bool = False
    thinking: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFailed(Event):
    """A model call failed, after the client's retries.

    Attributes:
        role: `root` drives an RLM, `sub` answers a plain sub-call.
        model: name of the model.
        error: message of the error.
        usage: usage that the provider bills despite the failure, if known.
        seconds: time from sending the request to the failure.
    """

    role: Literal["root", "sub"]
    model: str
    error: str
    usage: Usage | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted(Event):
    """A summary replaced the older turns in an RLM's conversation.

    Attributes:
        messages: number of messages in the whole conversation.
        summary: the model's summary.
    """

    messages: int
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStarted(Event):
    """A cell starts.

    Attributes:
        cell: number of the cell in its RLM, from 1.
        code: Python code.
    """

    cell: int
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutput(Event):
    """Output of a running cell, as it appears. Not recorded, because `CellFinished` contains all output.

    Attributes:
        cell: number of the cell.
        stream: the output stream.
        text: the next piece of output.
        seq: number of the last recorded event.
    """

    cell: int
    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFinished(Event):
    """A cell ended.

    Attributes:
        cell: number of the cell.
        result: its output, error or answer.
    """

    cell: int
    result: CellResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUsed(Event):
    """A cell called a host function.

    Attributes:
        tool: name of the function.
        arguments: the arguments as text, shortened if long.
        ok: whether it returned a value.
        seconds: run time of the call.
    """

    tool: str
    arguments: str
    ok: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallStarted(Event):
    """A cell of the parent makes a sub-call.

    Attributes:
        prompt: prompt of the sub-call.
        model: name of the model.
        recursive: whether an RLM answers, rather than a plain model call.
        batch: number of its `llm_batch`; 0 is a single call.
    """

    prompt: str
    model: str
    recursive: bool
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallFinished(Event):
    """A sub-call returns to the parent's cell.

    Attributes:
        ok: whether it has an answer.
        text: the answer, or what went wrong.
        seconds: time since its start.
    """

    ok: bool
    text: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RLMFinished(Event):
    """An RLM has its answer.

    Attributes:
        answer: the answer.
        stop_reason: `final`, or what ended its work.
        iterations: turns it took.
    """

    answer: str
    stop_reason: StopReason
    iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run ended.

    Attributes:
        stop_reason: why the last question ended; None if the run failed.
        usage: usage of the whole run.
        seconds: time spent on questions.
        error: why the run failed, or `cancelled`; None if it succeeded.
    """

    stop_reason: StopReason | None
    usage: Usage
    seconds: float
    error: str | None = None


OnEvent = Callable[[Event], None]
