"""Decides how to serve a query. Only the host knows depth, models and identity. Pure. Imports models, sandbox, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rlm.models.base import Model
from rlm.prompts import question_from
from rlm.sandbox.base import SandboxQuery
from rlm.sandbox.values import encode
from rlm.types import Message

from .task import RLMTask

MAX_NAME_CHARS: Final = 300  # shown of an unknown model's name: a cell chooses its length


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The query gets no call. `text` says why. `model` is the requested model; None if it is unavailable."""

    text: str
    model: Model | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainCall:
    """One request to a model."""

    model: Model
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRLM:
    """Another RLM, one level below."""

    task: RLMTask

    @property
    def model(self) -> Model:
        """The model that drives the RLM."""
        return self.task.model


Plan = Rejected | PlainCall | ChildRLM


def plan(query: SandboxQuery, *, task: RLMTask, node: str, sub_model: Model, by_name: Mapping[str, Model]) -> Plan:
    """Decide how to serve a query.

    Args:
        query: query of a cell.
        task: task of the RLM whose cell asks.
        node: node of the query.
        sub_model: default model of the level below.
        by_name: models that a query may name.
    """
    if task.depth == 0:
        return Rejected(text="No calls to models are allowed at this depth: work with code alone.")
    model = sub_model if query.model is None else by_name.get(query.model)
    if model is None:
        names = ", ".join(by_name)
        named = repr(str(query.model)[:MAX_NAME_CHARS])
        return Rejected(text=f"There is no model {named} here; the names are: {names}.")
    if task.depth == 1 or query.recurse is False:
        if query.context is not None:
            text = "This call failed: a plain call takes a prompt only; put the text into the prompt."
            return Rejected(text=text, model=model)
        return PlainCall(model=model, messages=(Message(role="user", content=query.prompt),))
    # A prompt alone may be a long text that contains its question; beside a context, it is the question.
    child = RLMTask(
        node=node,
        level=task.level + 1,
        depth=task.depth - 1,
        context=encode(query.prompt) if query.context is None else query.context,
        query=question_from(query.prompt) if query.context is None else query.prompt,
        model=model,
    )
    return ChildRLM(task=child)
