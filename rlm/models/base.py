"""The seam between the loop and a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from rlm.types import Message, ModelReply, Usage


@runtime_checkable
class Redacting(Protocol):
    """A model that knows secrets, and can take them out of a text: what a run records goes through it."""

    def redact(self, text: str) -> str:
        """The text without them."""


def parameters_of(model: Model) -> Mapping[str, object]:
    """What a model sends beside the messages, where it says so in an attribute `parameters` (plain data, no secrets).

    Two requests are the same only if these are.
    """
    parameters: Mapping[str, object] = getattr(model, "parameters", {})
    return parameters


def server_of(model: Model) -> str:
    """Where a model's requests go, where it says so in an attribute `base_url`."""
    server: str = getattr(model, "base_url", "")
    return server


class Model(Protocol):
    """A chat model. Implementations are safe for many concurrent calls, from several event loops in turn."""

    @property
    def name(self) -> str:
        """The name that usage is reported under and that prices are looked up by."""

    @property
    def context_window(self) -> int | None:
        """Tokens that a conversation and its reply may have together; None is unknown."""

    @property
    def max_tokens(self) -> int | None:
        """The limit on output tokens that every request carries; None is no limit."""

    def cost(self, usage: Usage) -> float | None:
        """The most dollars that a call with this usage can cost; None is unknown."""

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """One reply to a conversation.

        Raises:
            ContextTooLong: the conversation is longer than the model's window.
            ModelError: there is no usable reply (after the retries that the implementation makes).
        """

    async def aclose(self) -> None:
        """Release what the running event loop's calls have opened; the next call may open it again."""
