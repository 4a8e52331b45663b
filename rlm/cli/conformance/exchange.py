"""Requests, answers and verdicts of the questions to a server. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from rlm.models.chat import UnusableResponse, read_reply
from rlm.models.prices import Pricing
from rlm.models.refusals import error_message, is_too_long
from rlm.models.thinking import split_thinking
from rlm.types import Message

CHAT: Final = "/chat/completions"
MODELS: Final = "/models"
SHORT_REPLY: Final = 64  # output tokens of a question that wants a short answer
THINKING_REPLY: Final = 1024  # the same for a model that thinks first
MAX_QUOTE: Final = 160  # characters shown of a server's error message

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: GET without messages, else a chat completion.

    Attributes:
        messages: the conversation, as (role, content).
        fields: further fields of the body.
        limit: whether the suite limits the reply's tokens; a question about the limit sets it itself.
        path: path below the base URL.
    """

    messages: Sequence[tuple[str, str]] = ()
    fields: Mapping[str, object] = field(default_factory=dict)
    limit: bool = True
    path: str = CHAT


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        status: the HTTP status; None if there was no response.
        body: the response's body.
        headers: its headers, by name in lower case.
        seconds: from the request to the end of the response.
        failure: why there was no response.
        messages: the conversation of the request.
        redact: takes the keys out of the server's words, before they are clipped: half a key is a leak, too.
    """

    status: int | None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str = ""
    messages: Sequence[tuple[str, str]] = ()
    redact: Callable[[str], str] = str

    @property
    def ok(self) -> bool:
        """Whether the server accepted the request."""
        return self.status is not None and 200 <= self.status < 300

    @cached_property
    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def streamed(self) -> bool:
        """Whether the body is an event stream."""
        return "event-stream" in self.headers.get("content-type", "") or self.body.lstrip().startswith(b"data:")

    @property
    def message(self) -> Mapping[str, Any]:
        """The first choice's message, as the server sent it."""
        choices = _map(self.json).get("choices")
        return _map(_map(choices[0]).get("message")) if isinstance(choices, list) and choices else {}

    @property
    def finish_reason(self) -> str | None:
        """The first choice's finish reason."""
        choices = _map(self.json).get("choices")
        return _map(choices[0]).get("finish_reason") if isinstance(choices, list) and choices else None

    @property
    def usage(self) -> Mapping[str, Any]:
        """The usage, as the server sent it."""
        return _map(_map(self.json).get("usage"))

    @property
    def input_tokens(self) -> int | None:
        """The server's count of the request's tokens."""
        return count(self.usage.get("prompt_tokens"))

    @property
    def output_tokens(self) -> int | None:
        """The server's count of the reply's tokens."""
        return count(self.usage.get("completion_tokens"))

    @cached_property
    def read(self) -> tuple[str, str]:
        """The reply's text as rlm reads it, and why there is none."""
        if not self.ok:
            return "", self.error
        messages = [Message(role="user", content=content) for _, content in self.messages]
        try:
            reply = read_reply(self.body, messages=messages, model="m", pricing=Pricing(base_url=""), request_id=None)
        except UnusableResponse as error:
            return "", self.redact(str(error))
        _, text = split_thinking(self.redact(reply.text))
        return text, "" if text.strip() else "sent only thinking"

    @property
    def text(self) -> str:
        """The reply's text as rlm reads it."""
        return self.read[0]

    @property
    def words(self) -> str:
        """The server's message, on one line."""
        body = self.body.decode(errors="replace") if self.json is None else error_message(self.json)
        return self.redact(" ".join(body.split()))

    @property
    def error(self) -> str:
        """What went wrong: the status, and the beginning of the server's message."""
        return self.failure if self.status is None else quoted(f"{self.status} {self.words}".strip())

    @property
    def too_long(self) -> bool:
        """Whether rlm understands this refusal as: the conversation exceeds the window."""
        return self.status is not None and is_too_long(self.status, self.json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the questions so far have shown.

    Attributes:
        limit_field: the field of the output limit that works; None if none does.
        thinks: whether the model thinks before it replies, so that a short limit leaves no text. None: not yet known.
        system_role: whether the server takes a system message.
        stated_window: tokens of the window by the server's list of models.
        window: tokens that a prompt may have, as tried.
        chars_per_token: of the filler text of long prompts.
        max_concurrent: how many requests at once are advisable; None is no advice.
        refused: parameters that the server refuses.
    """

    limit_field: str | None = "max_completion_tokens"
    thinks: bool | None = None
    system_role: bool = True
    stated_window: int | None = None
    window: int | None = None
    chars_per_token: float = 4.0
    max_concurrent: int | None = None
    refused: tuple[str, ...] = ()

    @property
    def output_limit(self) -> int:
        """Output tokens of a question."""
        return SHORT_REPLY if self.thinks is False else THINKING_REPLY


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a question. `learned` are fields of `Known`. A `problem` prevents runs."""

    state: State
    text: str
    learned: Mapping[str, Any] = field(default_factory=dict)


# A question yields requests that are sent at once, and receives their answers.
Question = Generator[Sequence[Ask], Sequence[Answer], Verdict]


def ask(text: str, fields: Mapping[str, object] | None = None, *, system: str = "", limit: bool = True) -> Ask:
    """A question of one user message."""
    messages = [("system", system)] * bool(system) + [("user", text)]
    return Ask(messages=messages, limit=limit, fields=fields or {})


def count(value: object) -> int | None:
    """A count of tokens; None if it is no whole number, 0 or more."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def quoted(text: str) -> str:
    """The beginning of a server's words."""
    return text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}…"


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
