"""A deterministic model, for tests and for runs without a provider. Imports errors and types."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from rlm.errors import ContextTooLong, ModelError
from rlm.types import Message, ModelReply, Usage

from .base import Model

Policy = Callable[[Sequence[Message]], str | ModelReply]


class ScriptedModel(Model):
    """Replies as a function of the conversation, at no cost.

    Args:
        reply: a function of the messages, or the replies in order. The number of assistant messages selects the reply,
            so one model serves many conversations at once.
        name: identifies the model in usage reports.
        latency: seconds that each reply takes.
        context_window: tokens, at four characters each. A longer conversation raises ContextTooLong. None is unknown.
    """

    def __init__(
        self,
        reply: Policy | Sequence[str],
        *,
        name: str = "scripted",
        latency: float = 0.0,
        context_window: int | None = None,
    ) -> None:
        self._reply = reply if callable(reply) else _in_order(reply)
        self.name = name
        self._latency = latency
        self.context_window = context_window

    def cost(self, usage: Usage) -> float | None:
        """Every call is free."""
        return 0.0

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """The scripted reply. Raises ModelError after the last reply of a list, and whatever the function raises."""
        await anyio.sleep(self._latency)
        tokens = sum(_tokens(message.content) for message in messages)
        if self.context_window is not None and tokens > self.context_window:
            raise ContextTooLong(f"{tokens:,} tokens exceed the script's window of {self.context_window:,}")
        reply = self._reply(messages)
        if isinstance(reply, ModelReply):
            return reply
        usage = Usage(calls=1, input_tokens=tokens, output_tokens=_tokens(reply), cost_usd=0.0)
        return ModelReply(text=reply, usage=usage, model=self.name)


def _in_order(replies: Sequence[str]) -> Policy:
    def reply(messages: Sequence[Message]) -> str:
        turn = sum(message.role == "assistant" for message in messages)
        if turn >= len(replies):
            raise ModelError(f"the script has {len(replies)} replies, and this conversation asks for one more")
        return replies[turn]

    return reply


def _tokens(text: str) -> int:
    """Estimated tokens of a text, at about four characters each."""
    return -(-len(text) // 4)
