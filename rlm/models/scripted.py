"""A deterministic model: for tests, and to run everything without a provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from rlm.errors import ContextTooLong, ModelError
from rlm.types import Message, ModelReply, Usage

Policy = Callable[[Sequence[Message]], str | ModelReply]


class ScriptedModel:
    """Replies as a function of the conversation, at no cost.

    Args:
        reply: a function of the messages; or the replies in order, counted per conversation (by its assistant messages),
            so that one model serves many conversations at once.
        name: what usage is reported under.
        latency: seconds that each reply takes.
        context_window: tokens, at four characters each; a longer conversation is refused. None is unknown.
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
        self._name = name
        self._latency = latency
        self._context_window = context_window

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_window(self) -> int | None:
        return self._context_window

    @property
    def max_tokens(self) -> int | None:
        return None

    def cost(self, usage: Usage) -> float | None:
        """Nothing."""
        return 0.0

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """The scripted reply. Raises ModelError when a list of replies is used up, and what the function raises."""
        await anyio.sleep(self._latency)
        tokens = sum(_tokens(message.content) for message in messages)
        if self._context_window is not None and tokens > self._context_window:
            raise ContextTooLong(f"{tokens:,} tokens are more than the {self._context_window:,} of the script's window")
        reply = self._reply(messages)
        if isinstance(reply, ModelReply):
            return reply
        usage = Usage(
            calls=1,
            input_tokens=tokens,
            output_tokens=_tokens(reply),
            cost_usd=0.0,
        )
        return ModelReply(text=reply, usage=usage, model=self._name)

    async def aclose(self) -> None:
        """Nothing is open."""


def _in_order(replies: Sequence[str]) -> Policy:
    def reply(messages: Sequence[Message]) -> str:
        turn = sum(message.role == "assistant" for message in messages)
        if turn >= len(replies):
            raise ModelError(f"the script has {len(replies)} replies, and this conversation asks for one more")
        return replies[turn]

    return reply


def _tokens(text: str) -> int:
    """An estimate: about four characters a token."""
    return -(-len(text) // 4)
