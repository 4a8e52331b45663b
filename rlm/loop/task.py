"""The task of one RLM, and its result. Pure. Imports models, sandbox values and types."""

from __future__ import annotations

from dataclasses import dataclass

from rlm.models.base import Model
from rlm.sandbox.values import Value
from rlm.types import StopPoint, StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class RLMTask:
    """The task of one RLM.

    Attributes:
        node: its place in the call tree.
        level: levels below the root; 0 is the root.
        depth: levels that it may call below itself.
        context: the encoded context.
        query: the question; None if the context contains it.
        model: drives the RLM.
    """

    node: str
    level: int
    depth: int
    context: Value
    query: str | None
    model: Model


@dataclass(frozen=True, slots=True, kw_only=True)
class RLMResult:
    """The answer of one RLM. `stop` is set if its work can continue: time, a person or a limit of the run ended it."""

    answer: str
    stop_reason: StopReason
    iterations: int
    stop: StopPoint | None = None
