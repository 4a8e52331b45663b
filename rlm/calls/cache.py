"""An optional cache of replies across runs. Repeating a request with the same model, parameters and messages is free.

It keeps complete replies only, neither failures nor replies that were cut off. Imports models and store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from rlm.models.request import Request, digest_of
from rlm.store.database import Database, text_of
from rlm.types import ModelReply, Usage

SCHEMA_VERSION: Final = 2  # 1 had no thinking
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS replies (
    digest BLOB PRIMARY KEY, model TEXT NOT NULL, text NOT NULL, request_id, thinking NOT NULL
) WITHOUT ROWID"""


class Cache:
    """A file of replies that runs and processes share; a context manager."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises JournalError if that fails."""
        self._database = Database(path, schema=SCHEMA, version=SCHEMA_VERSION, oldest=SCHEMA_VERSION)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    async def get(self, server: str, request: Request) -> ModelReply | None:
        """The cached reply to a request, with empty usage; None if the cache has none."""
        select, key = "SELECT model, text, request_id, thinking FROM replies WHERE digest = ?", _key(server, request)
        rows = await self._database.run(lambda: self._database.rows(select, (key,)))
        if not rows:
            return None
        model, text, request_id, thinking = rows[0]
        return ModelReply(
            text=text_of(text), usage=Usage(), model=model, request_id=request_id, thinking=text_of(thinking)
        )

    async def put(self, server: str, request: Request, reply: ModelReply) -> None:
        """Store a reply, if it is complete."""
        if reply.finish_reason == "stop":
            values = (_key(server, request), reply.model, reply.text, reply.request_id, reply.thinking)
            await self._database.write(("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?)", values), durable=False)


def _key(server: str, request: Request) -> bytes:
    return digest_of(server, request.parameters, request.digest)
