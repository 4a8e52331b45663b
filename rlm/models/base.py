"""The interface between an RLM and a language model. Imports types only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rlm.types import Message, ModelReply, Usage


class Model(ABC):
    """A chat model. Subclass it: set `name`, implement `complete`, and override what else applies.

    One model serves many concurrent calls, and several event loops in turn.

    Attributes:
        name: identifies the model in usage reports and price lists.
        context_window: maximum tokens of a conversation and its reply together. None: unknown.
        max_tokens: limit on output tokens in every request. None: no limit.
        parameters: other parameters of every request, as plain data without secrets. The journal and the cache
            serve a request only if these are equal.
        base_url: URL of the server, without credentials. The cache distinguishes servers by it.
    """

    name: str
    context_window: int | None = None
    max_tokens: int | None = None
    parameters: Mapping[str, object] = MappingProxyType({})
    base_url: str = ""

    def cost(self, usage: Usage) -> float | None:
        """The maximum cost in dollars of a call with this usage. None: unknown, the default."""
        return None

    def redact(self, text: str) -> str:
        """The text without this model's secrets. Applied to everything that a run records. Default: unchanged."""
        return text

    @abstractmethod
    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """Get one reply to a conversation.

        Args:
            messages: the conversation, oldest message first.
            max_tokens: limit on the reply's tokens; None is no limit.

        Raises:
            ContextTooLong: the conversation exceeds the model's window.
            ModelError: no usable reply, after the implementation's own retries.
        """

    async def find_window(self) -> None:
        """Set `context_window` if it is unknown and the server states it. Called before a run. Default: does nothing.

        Asks at most once, and for a few seconds at most. A failure leaves the window unknown.
        """
        return

    async def aclose(self) -> None:
        """Release the running event loop's connections. The next call may open new ones. Default: does nothing."""
        return
