"""The conversation of one RLM, as data. Pure. Imports types and text helpers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlm._util.text import clip, fenced
from rlm.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """The conversation of one RLM. Methods return a new transcript.

    It begins with the system prompt and the question. Each reply and the message after it make an exchange.

    Attributes:
        messages: the messages of the next request; fewer than in `history` after compaction.
        history: all messages since the beginning.
        question: the text of the latest question.
    """

    messages: tuple[Message, ...]
    history: tuple[Message, ...]
    question: str

    @classmethod
    def begin(cls, system: str, first: str) -> Transcript:
        """A new conversation: the system prompt and the first question."""
        messages = Message(role="system", content=system), Message(role="user", content=first)
        return cls(messages=messages, history=messages, question=first)

    @property
    def exchanged_chars(self) -> int:
        """Characters in the exchanges of `messages`."""
        return sum(len(message.content) for message in self.messages[2:])

    def reply(self, text: str) -> Transcript:
        """Add a reply of the model."""
        message = Message(role="assistant", content=text)
        return replace(self, messages=(*self.messages, message), history=(*self.history, message))

    def add_message(self, text: str) -> Transcript:
        """Add a message to the model. Roles must alternate, so the text joins a preceding message to the model."""
        return replace(self, messages=_append(self.messages, text), history=_append(self.history, text))

    def ask(self, unseen: str, question: str) -> Transcript:
        """Add a further question, after the output that the model has not seen yet."""
        text = f"{unseen}\n\n{question}" if unseen else question
        return replace(self.add_message(text), question=question)

    def older(self, keep_chars: int) -> Transcript:
        """Drop the newest exchanges: as many as fit into `keep_chars`, and at least one."""
        return replace(self, messages=self.messages[: self._cut(keep_chars)])

    def clipped(self, chars: int) -> Transcript:
        """Clip the longest exchanged messages to head and tail, so that all of them have about `chars` characters."""
        if self.exchanged_chars <= chars:
            return self
        sizes, left, limit = sorted(len(message.content) for message in self.messages[2:]), chars, 0
        for index, size in enumerate(sizes):
            limit = left // (len(sizes) - index)
            if size > limit:
                break
            left -= size
        return replace(
            self, messages=(*self.messages[:2], *(_clipped(message, limit) for message in self.messages[2:]))
        )

    def compact(self, note: str, *, keep_chars: int) -> Transcript:
        """Replace the older exchanges with a note after the question. Clip the newest ones to head and tail."""
        newest = [_clipped(message, keep_chars // 2) for message in self.messages[self._cut(keep_chars) :]]
        noted = Message(role="user", content=f"{self.question}\n\n{note}")
        return replace(self, messages=(self.messages[0], noted, *newest))

    def _cut(self, keep_chars: int) -> int:
        """The index at which the newest exchanges begin."""
        cut = max(2, (len(self.messages) - 1) // 2 * 2)
        kept = sum(len(message.content) for message in self.messages[cut:])
        while cut > 2:
            kept += sum(len(message.content) for message in self.messages[cut - 2 : cut])
            if kept > keep_chars:
                break
            cut -= 2
        return cut


def _append(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    *earlier, latest = messages
    if latest.role == "user":
        return (*earlier, Message(role="user", content=f"{latest.content}\n\n{text}"))
    return (*messages, Message(role="user", content=text))


def _clipped(message: Message, limit: int) -> Message:
    """Clip a message. A message to the model is fenced as a whole, because the cut may leave its fences unclosed."""
    short = clip(message.content, limit)
    if short == message.content or message.role == "assistant":
        return replace(message, content=short)
    return replace(message, content=f"Shortened:\n{fenced(short)}")
