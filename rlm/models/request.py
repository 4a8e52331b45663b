"""A request to a model, and how two are told to be the same. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256

from rlm.types import Message


class Request:
    """What is sent to a model, with the digests that it is known by."""

    def __init__(self, model: str, messages: Sequence[Message], parameters: Mapping[str, object]) -> None:
        self.model = model
        self.messages = messages
        self.parameters = json.dumps(parameters, sort_keys=True)
        self.parts = [digest_of(message.role, message.content) for message in messages]
        self.digest = digest_of(model, *self.parts)


def digest_of(*parts: str | bytes | memoryview) -> bytes:
    """SHA-256 of parts, each with its length, so that no two lists of parts look alike."""
    total = sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.digest()
