"""A model server that answers the questions of `rlm doctor --server` as a good one would, but for one oddity."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helpers.odd_server import Asked, Said

WINDOW = 8192


@dataclass(frozen=True, kw_only=True)
class Played:
    """The server, as a function of the request.

    Attributes:
        window: tokens of its window, at four characters each.
        states_window: whether its list has the window.
        limit_fields: fields of the output limit that it obeys; it ignores others.
        refuses: names of fields that it refuses.
        odd: changes a good response; None leaves it as it is.
        seconds: how long each reply takes.
    """

    window: int = WINDOW
    states_window: bool = True
    limit_fields: Sequence[str] = ("max_completion_tokens", "max_tokens")
    refuses: Sequence[str] = ()
    odd: Callable[[Asked, Said], Said | None] = lambda asked, said: None
    seconds: float = 0.0

    def __call__(self, asked: Asked) -> Said:
        said = self._list() if asked.body is None else self._chat(asked.body)
        return self.odd(asked, said) or said

    def _list(self) -> Said:
        entry = {"id": "m", "object": "model"} | ({"max_model_len": self.window} if self.states_window else {})
        return Said(body={"object": "list", "data": [entry]})

    def _chat(self, body: Mapping[str, Any]) -> Said:
        messages = body["messages"]
        for name in self.refuses:
            if name in body or any(message["role"] == name for message in messages):
                return refusal(f"Unsupported parameter: {name}")
        size = sum(len(message["content"]) for message in messages) // 4
        if size > self.window:
            return refusal(f"This model's maximum context length is {self.window} tokens, you sent {size}.")
        text = reply_to(messages)
        limit = next((body[name] for name in self.limit_fields if name in body), None)
        for stop in body.get("stop", ()):
            text = text.partition(stop)[0]
        kept = text if limit is None else text[: 4 * limit]
        return completion(kept, size, reason="stop" if kept == text else "length", seconds=self.seconds)


def reply_to(messages: Sequence[Mapping[str, str]]) -> str:
    """What a good model replies."""
    first, last = messages[0]["content"], messages[-1]["content"]
    if "PEAR" in first:
        return "PEAR"
    if "REPL" in first:
        return "I look at it.\n```repl\nprint(context.count('\\n'))\n```"
    if code := re.search(r"The code is ([\w-]+)", last):
        return code[1]
    if upper := re.search(r"Count from 1 to (\d+)", last):
        return "\n".join(map(str, range(1, int(upper[1]) + 1)))
    if "Repeat exactly the next line" in last:
        return last.splitlines()[-1]
    if word := re.search(r"Reply with the one word: (\w+)", last):
        return word[1]
    return "plum" if "plum" in first else "hello"


def completion(
    text: object, input_tokens: int = 10, *, reason: str = "stop", seconds: float = 0.0, **fields: Any
) -> Said:
    """A good response."""
    usage = {"prompt_tokens": input_tokens, "completion_tokens": max(1, len(str(text)) // 4)}
    message = {"role": "assistant", "content": text, **fields}
    body = {"model": "m", "choices": [{"index": 0, "finish_reason": reason, "message": message}], "usage": usage}
    return Said(body=body, seconds=seconds)


def refusal(text: str, status: int = 400, **headers: str) -> Said:
    """A refused request."""
    return Said(body={"error": {"message": text}}, status=status, headers=headers)
