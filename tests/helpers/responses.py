"""The cases of tests/corpus/responses: what a server sends, and what OpenAIModel makes of it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from rlm.testing import FakeProvider, Fault
from rlm.types import Message

FOLDER: Final = Path(__file__).parents[1] / "corpus" / "responses"
KEYS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset({"source", "about", "request", "responses", "expect"}),
    "request": frozenset({"url", "messages", "sampling", "max_tokens", "max_retries", "rate_limit_seconds", "calls"}),
    "responses": frozenset({"status", "headers", "body"}),
    "expect": frozenset(
        {
            *("text", "thinking", "finish_reason", "usage", "error", "words", "not_words", "status", "window"),
            *("requests", "sent", "absent", "roles", "path", "adaptions", "warnings"),
        }
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file: `tests/corpus/README.md` explains its keys."""

    name: str
    request: Mapping[str, Any]
    responses: tuple[Fault, ...]
    expect: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file. Raises ValueError for an unknown or missing key."""
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        tables = {"": [data], **{name: data.get(name, []) for name in ("request", "responses", "expect")}}
        for name, given in tables.items():
            for table in given if isinstance(given, list) else [given]:
                if unknown := table.keys() - KEYS[name]:
                    raise ValueError(f"{file.name}: unknown key {sorted(unknown)} in [{name}]")
        if not (data.get("source") and data.get("about") and data.get("responses") and data.get("expect")):
            raise ValueError(f"{file.name}: source, about, [[responses]] and [expect] are needed")
        return cls(
            name=file.stem,
            request=data.get("request", {}),
            responses=tuple(_fault(response) for response in data["responses"]),
            expect=data["expect"],
        )

    def base_url(self, provider: FakeProvider) -> str:
        """The base URL that the user configured."""
        return f"{provider.base_url.removesuffix('/v1')}{self.request.get('url', '/v1')}"

    @property
    def messages(self) -> list[Message]:
        """The conversation that is sent."""
        given = self.request.get("messages", [{"role": "user", "content": "hello"}])
        return [Message(role=message["role"], content=message["content"]) for message in given]


def _fault(response: Mapping[str, Any]) -> Fault:
    """Errors ask to be retried at once unless they say otherwise, so that no test waits."""
    status, headers = response.get("status", 200), response.get("headers", {})
    if status >= 400 and not any(name.startswith("retry-after") for name in headers):
        headers = {**headers, "retry-after-ms": "1"}
    return Fault(status=status, headers=headers, body=response["body"].encode())


CASES: Final = [Case.read(file) for file in sorted(FOLDER.glob("*.toml"))]
