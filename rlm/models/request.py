"""A request to a model, and the digests that identify it. Pure. Imports types only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

from rlm.types import Message

INLINE_HASH_CHARS: Final = 1 << 20  # hashing more takes milliseconds, so callers do it in a thread


class Request:
    """A request to a model.

    Attributes:
        model: the model's name.
        messages: the conversation.
        parameters: the model's other parameters, as JSON.
        parts: a digest of each message.
        digest: digest of the model's name and all messages.
    """

    def __init__(self, model: str, messages: Sequence[Message], parameters: Mapping[str, object]) -> None:
        self.model = model
        self.messages = messages
        self.parameters = json.dumps(dict(parameters), sort_keys=True)
        self.parts = [digest_of(message.role, message.content) for message in messages]
        self.digest = digest_of(model, *self.parts)


def digest_of(*parts: str | bytes | memoryview) -> bytes:
    """SHA-256 over parts. Each part includes its length, so that different lists of parts have different digests."""
    total = sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.digest()
