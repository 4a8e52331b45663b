"""The seam between the loop and a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rlm.types import Message, ModelReply


@runtime_checkable
class HoldsKeys(Protocol):
    """A model that knows secrets, and can take them out of a text: what a run records goes through it."""

    def redact(self, text: str) -> str:
        """The text without them."""


class Model(Protocol):
    """A chat model. Implementations are safe for many concurrent calls, from several event loops in turn."""

    @property
    def name(self) -> str:
        """The name that usage is reported under and that prices are looked up by."""

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """One reply to a conversation.

        Raises:
            ModelError: there is no usable reply (after the retries that the implementation makes).
        """

    async def aclose(self) -> None:
        """Release what the running event loop's calls have opened; the next call may open it again."""
