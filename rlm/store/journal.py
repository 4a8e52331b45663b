"""The rows of `journal.sqlite`: a run's model calls and queries. `replay.py` decides which of them a resumed run reuses.

A reply is on disk before the run uses it. Queries, and calls about to be sent, are written first, but without fsync. They
survive a crash of the process, but not a power cut. After one, the number of resent calls may be too low.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from rlm.models.request import Request
from rlm.types import ModelReply, Usage

from .database import Database, Mode, Statement, text_of
from .entries import GIVEN_BACK, SCHEMA, SCHEMA_VERSION, Call, Failure, RecordedQuery, RecordedUsage

_SELECT_CALLS = "SELECT id, node, ordinal, digest, parameters, state FROM calls WHERE NOT stale ORDER BY id"
_SELECT_OUTCOME = (
    "SELECT text, finish_reason, reply_model, request_id, status, usage, thinking, window FROM calls WHERE id = ?"
)
_SELECT_USAGE = (
    "SELECT node, model, usage, state, reserved_tokens, reserved_usd FROM calls"
    " WHERE state != 'refused' AND finish_reason IS NOT ? AND "
)
_INSERT_CALL = (
    "INSERT INTO calls (id, node, ordinal, digest, model, parameters, messages, state, reserved_tokens, reserved_usd,"
    " sent) VALUES (?, ?, ?, ?, ?, ?, ?, 'sent', ?, ?, ?)"
)
_UPDATE_OUTCOME = (
    "UPDATE calls SET state = ?, text = ?, finish_reason = ?, reply_model = ?, request_id = ?, status = ?, usage = ?,"
    " cost_usd = ?, thinking = ?, window = ?, ended = ? WHERE id = ?"
)


class Journal:
    """The journal of one run, used from one event loop.

    Args:
        path: the file; None keeps the journal in memory.
        mode: how to open the file. With `read`, writes are ignored, so a replay leaves no trace.

    Raises:
        JournalError: the file is damaged, or a newer or a too old version wrote it.
    """

    def __init__(self, path: Path | None = None, *, mode: Mode = "create") -> None:
        self.read_only = mode == "read"
        self.database = Database(path, schema=SCHEMA, version=SCHEMA_VERSION, oldest=SCHEMA_VERSION, mode=mode)
        self._latest: int = self.database.rows("SELECT coalesce(max(id), 0) FROM calls")[0][0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.database.close()

    # Reads. Call the first three only before any write.

    def calls(self) -> Iterator[Call]:
        """All calls that are not stale, oldest first. If a place has several, the last one counts."""
        for number, node, ordinal, digest, parameters, state in self.database.rows(_SELECT_CALLS):
            yield Call(
                id=number,
                node=node,
                ordinal=ordinal,
                digest=digest,
                parameters=sys.intern(parameters),
                state=state,
            )

    def queries(self) -> Iterator[RecordedQuery]:
        """All queries, including stale ones."""
        for node, digest, ok, stale in self.database.rows("SELECT node, digest, ok, stale FROM queries"):
            yield RecordedQuery(node=node, digest=digest, ok=None if ok is None else bool(ok), stale=bool(stale))

    def usage_of_stale(self) -> list[RecordedUsage]:
        """The usage of calls that an earlier replay discarded."""
        return self._usage("stale")

    def usage_of(self, ids: Iterable[int]) -> list[RecordedUsage]:
        """The usage of these calls. Refused calls have none."""
        return [usage for number in ids for usage in self._usage("id = ?", (number,))]

    async def read_usage(self, calls: Iterable[Call]) -> list[RecordedUsage]:
        """The usage of these calls. Allowed at any time."""
        ids = [call.id for call in calls]
        return await self.database.run(lambda: self.usage_of(ids)) if ids else []

    async def read_outcome(self, call: Call) -> ModelReply | Failure:
        """How a call ended."""
        row = (await self.database.run(lambda: self.database.rows(_SELECT_OUTCOME, (call.id,))))[0]
        text, finish_reason, model, request_id, status, usage, thinking, window = row
        if call.state == "answered":
            return ModelReply(
                text=text_of(text),
                usage=Usage(**json.loads(usage)),
                model=model,
                finish_reason=finish_reason,
                request_id=request_id,
                thinking=text_of(thinking),
            )
        assert call.state != "sent"
        return Failure(
            state=call.state,
            text=text_of(text),
            reason=finish_reason,
            status=status,
            request_id=request_id,
            usage=Usage(**json.loads(usage)) if usage else None,
            window=window,
        )

    async def read_answer(self, node: str) -> str:
        """The text of an answer that `record_answer` wrote."""
        select = "SELECT text FROM queries WHERE node = ?"
        rows = await self.database.run(lambda: self.database.rows(select, (node,)))
        return text_of(rows[0][0])

    def _usage(self, where: str, values: Sequence[object] = ()) -> list[RecordedUsage]:
        rows = self.database.rows(_SELECT_USAGE + where, (GIVEN_BACK, *values))
        return [
            RecordedUsage(
                node=node,
                model=model,
                usage=Usage(**json.loads(usage)) if usage else Usage(),
                reserved_tokens=tokens,
                reserved_usd=dollars,
                settled=usage is not None or state in ("answered", "failed"),
            )
            for node, model, usage, state, tokens, dollars in rows
        ]

    # Writes. Cancelling the caller does not undo them.

    def new_call(self, node: str, ordinal: int, request: Request) -> Call:
        """A call that has no row yet."""
        self._latest += 1
        return Call(
            id=self._latest,
            node=node,
            ordinal=ordinal,
            digest=request.digest,
            parameters=request.parameters,
            state="sent",
            counted=True,
        )

    async def record_sent(self, call: Call, request: Request, *, reserved_tokens: int, reserved_usd: float) -> None:
        """Write a call before it is sent, with its messages and its reservation."""
        texts: list[Statement] = [
            ("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", (part, message.role, message.content))
            for part, message in zip(request.parts, request.messages, strict=True)
        ]
        parts = [part.hex() for part in request.parts]
        insert = _insert(call, request, parts, reserved_tokens, reserved_usd)
        await self._write(*texts, insert, durable=False)

    async def record_refusal(self, call: Call, request: Request, failure: Failure) -> None:
        """Write a call that the budget refused. Its messages are left out: refusals are free, and could fill the disk."""
        await self._write(_insert(call, request), _outcome(call, failure), durable=True)

    async def record_outcome(self, call: Call, outcome: ModelReply | Failure) -> None:
        """Write how a call ended."""
        await self._write(_outcome(call, outcome), durable=True)

    async def record_state(self, call: Call) -> None:
        """Write the state of a call, and keep its reply and usage."""
        await self._write(("UPDATE calls SET state = ? WHERE id = ?", (call.state, call.id)), durable=True)

    def add_query(self, node: str, digest: bytes) -> None:
        """Queue a query, so that the next write includes it first."""
        if not self.read_only:
            self.database.add(("INSERT INTO queries (node, digest) VALUES (?, ?)", (node, digest)))

    async def record_answer(self, node: str, *, ok: bool, text: str) -> None:
        """Write the answer to a query."""
        await self._write(_answer(node, ok, text), durable=True)

    async def record_abandoned(self, calls: Iterable[Call], queries: Iterable[str], text: str) -> None:
        """Mark these calls and queries as abandoned, with `text` as their outcome."""
        abandoned = Failure(state="abandoned", text=text)
        await self._write(
            *(_outcome(call, abandoned) for call in calls),
            *(_answer(node, False, text) for node in queries),
            durable=True,
        )

    async def mark_stale(self, calls: Iterable[Call], queries: Iterable[str] = (), *, durable: bool) -> None:
        """Keep calls and queries out of later replays. The usage of the calls still counts."""
        await self._write(
            *(("UPDATE calls SET stale = 1 WHERE id = ?", (call.id,)) for call in calls),
            *(("UPDATE queries SET stale = 1 WHERE node = ?", (query,)) for query in queries),
            durable=durable,
        )

    async def _write(self, *statements: Statement, durable: bool) -> None:
        if statements and not self.read_only:
            await self.database.write(*statements, durable=durable)


def _insert(
    call: Call, request: Request, parts: Sequence[str] = (), reserved_tokens: int = 0, reserved_usd: float = 0.0
) -> Statement:
    return _INSERT_CALL, (
        *(call.id, call.node, call.ordinal, request.digest, request.model, request.parameters),
        *(json.dumps(parts), reserved_tokens, reserved_usd, time.time()),
    )


def _outcome(call: Call, outcome: ModelReply | Failure) -> Statement:
    row: Sequence[object]
    match outcome:
        case ModelReply(text=text, usage=usage):
            call.state = "answered"
            row = (text, outcome.finish_reason, outcome.model, outcome.request_id, None)
            row = (*row, json.dumps(asdict(usage)), usage.cost_usd, outcome.thinking, None)
        case Failure(text=text):
            call.state = outcome.state
            row = (text, outcome.reason, None, outcome.request_id, outcome.status)
            billed = outcome.usage
            row = (*row, billed and json.dumps(asdict(billed)), billed and billed.cost_usd, None, outcome.window)
    return _UPDATE_OUTCOME, (call.state, *row, time.time(), call.id)


def _answer(node: str, ok: bool, text: str) -> Statement:
    return "UPDATE queries SET ok = ?, text = ? WHERE node = ?", (ok, text, node)
