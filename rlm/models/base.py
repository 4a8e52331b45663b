"""The seam between the loop and a language model. Imports types only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rlm.types import Message, ModelReply, Usage


class Model(Protocol):
    """A chat model. Subclass it, and override members as properties: only `name` and `complete` have no default.

    One model serves many concurrent calls, and several event loops in turn.
    """

    @property
    def name(self) -> str:
        """Identifies the model in usage reports and price lists."""

    @property
    def context_window(self) -> int | None:
        """Tokens that a conversation and its reply may have together; None is unknown, the default."""
        return None

    @property
    def max_tokens(self) -> int | None:
        """The limit on output tokens that every request carries; None is no limit, the default."""
        return None

    @property
    def parameters(self) -> Mapping[str, object]:
        """What every request carries beside its messages: plain data without secrets. Default: nothing.

        The journal and the cache serve a request only if these are the same.
        """
        return {}

    @property
    def base_url(self) -> str:
        """The URL of the server, without credentials; empty by default. The cache keeps servers apart by it."""
        return ""

    def cost(self, usage: Usage) -> float | None:
        """The most dollars that a call with this usage can cost; None is unknown, the default."""
        return None

    def redact(self, text: str) -> str:
        """The text without the secrets of this model, for everything that a run records. Default: unchanged."""
        return text

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """Get one reply to a conversation.

        Args:
            messages: the conversation, oldest message first.
            max_tokens: of the reply; None is no limit.

        Raises:
            ContextTooLong: the conversation exceeds the model's window.
            ModelError: no usable reply, after the implementation's own retries.
        """

    async def aclose(self) -> None:
        """Release what the running event loop's calls have opened. The next call may reopen it. Default: nothing."""
        return
