"""The conversation of one RLM, as data.

Pure. Imports types only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlm._util.text import clip, fenced
from rlm.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """The conversation of one RLM: what is sent, and all that was said.

    The two differ once it has been made shorter. Both begin with the system prompt and the question; after them a reply
    and what the model is told make an exchange. `question` is the text of the latest one.
    """

    messages: tuple[Message, ...]
    history: tuple[Message, ...]
    question: str

    @classmethod
    def begin(cls, system: str, first: str) -> Transcript:
        messages = Message(role="system", content=system), Message(role="user", content=first)
        return cls(messages=messages, history=messages, question=first)

    @property
    def exchanged_chars(self) -> int:
        """The length of what is sent of the exchanges."""
        return sum(len(message.content) for message in self.messages[2:])

    def reply(self, text: str) -> Transcript:
        """With a reply of the model."""
        message = Message(role="assistant", content=text)
        return replace(self, messages=(*self.messages, message), history=(*self.history, message))

    def say(self, text: str) -> Transcript:
        """With what the model is told next; joined to what it was told just before, as roles have to alternate."""
        return replace(self, messages=_said(self.messages, text), history=_said(self.history, text))

    def ask(self, seen: str, question: str) -> Transcript:
        """With what the model has not been shown yet, and a further question."""
        text = f"{seen}\n\n{question}" if seen else question
        return replace(self.say(text), question=question)

    def older(self, keep_chars: int) -> Transcript:
        """Without the newest exchanges: those that fit into `keep_chars`, and the newest of all in any case."""
        return replace(self, messages=self.messages[: self._cut(keep_chars)])

    def compact(self, note: str, *, keep_chars: int) -> Transcript:
        """With a note behind the question in place of the older exchanges; of the newest, head and tail are kept."""
        newest = [_shortened(message, keep_chars // 2) for message in self.messages[self._cut(keep_chars) :]]
        noted = Message(role="user", content=f"{self.question}\n\n{note}")
        return replace(self, messages=(self.messages[0], noted, *newest))

    def _cut(self, keep_chars: int) -> int:
        """Where the newest exchanges begin."""
        cut = max(2, (len(self.messages) - 1) // 2 * 2)
        kept = sum(len(message.content) for message in self.messages[cut:])
        while cut > 2:
            kept += sum(len(message.content) for message in self.messages[cut - 2 : cut])
            if kept > keep_chars:
                break
            cut -= 2
        return cut


def _said(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    *earlier, latest = messages
    if latest.role == "user":
        return (*earlier, Message(role="user", content=f"{latest.content}\n\n{text}"))
    return (*messages, Message(role="user", content=text))


def _shortened(message: Message, limit: int) -> Message:
    """Head and tail of a message; of what the model was told, as one block, for the cut may open the fences of output."""
    short = clip(message.content, limit)
    if short == message.content or message.role == "assistant":
        return replace(message, content=short)
    return replace(message, content=f"Shortened:\n{fenced(short)}")
