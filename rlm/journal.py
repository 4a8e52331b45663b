"""The durable record of a run's model calls (`journal.sqlite`), and what a replay is served from.

A call is known by its place: the node that made it, and its ordinal there. Its digest says whether the request is the same
as the recorded one. A reply is on the disk before anyone sees it. That a call is sent is written before it is sent, but
without fsync: it outlives the process, though not a power cut, after which the count of calls paid twice may be too low.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, Self

from .database import Database, Mode, Statement, text_of
from .request import Request
from .types import ModelReply, Usage

FILE_NAME: Final = "journal.sqlite"
SCHEMA_VERSION: Final = 1
ROOT: Final = "0"
TOO_LONG: Final = "context_too_long"  # the reason of a failure that a replay has to raise as what it was

SCHEMA: Final = """
CREATE TABLE calls (               -- each call that was sent, or that the budget refused
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL,            -- who asked: an RLM, or a plain sub-call, which is a node of its own
    ordinal INTEGER NOT NULL,      -- of the call at its node, from 1
    digest BLOB NOT NULL,          -- of model and messages
    model TEXT NOT NULL,
    parameters TEXT NOT NULL,      -- JSON
    messages TEXT NOT NULL,        -- JSON: digests of the messages (in hexadecimal), in order
    state TEXT NOT NULL,           -- sent | answered | failed | refused | abandoned
    stale INTEGER NOT NULL DEFAULT 0,  -- 1: a later replay took another way
    text, finish_reason, reply_model, request_id,
    status INTEGER,                -- of HTTP, of a call that failed
    usage TEXT,                    -- JSON
    cost_usd REAL,                 -- NULL where the price is unknown
    sent REAL NOT NULL, ended REAL -- seconds since the epoch
);
CREATE TABLE messages (            -- each once, however many requests repeat it
    digest BLOB PRIMARY KEY, role TEXT NOT NULL, content NOT NULL
) WITHOUT ROWID;
CREATE TABLE answers (             -- of recursive calls, as their parent was given them
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL, digest BLOB NOT NULL, ok INTEGER NOT NULL, text NOT NULL, stale INTEGER NOT NULL DEFAULT 0
)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a call ended without a reply.

    `reason` is the limit that refused it, or the kind of failure; `status` the HTTP status; `usage` what was billed all the
    same, if the provider said so.
    """

    state: Literal["failed", "refused", "abandoned"]
    text: str
    reason: str | None = None
    status: int | None = None
    request_id: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a recorded call used: counted once in every process that replays it."""

    node: str
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the journal has of a call: its outcome, None where it has to be sent; and what now counts as spent.

    `lost`: so many times it was sent before, and nobody knows what came of it. `diverged`: another request was
    recorded in its place.
    """

    outcome: ModelReply | Failure | None = None
    spent: Sequence[Spent] = ()
    lost: int = 0
    diverged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAnswer:
    """A recursive call's answer; `spent` by all calls of its tree, which is not gone through again, by so many `rlms`."""

    ok: bool
    text: str
    spent: Sequence[Spent]
    rlms: int


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A call that has a row. `counted`: what it used has been counted in this process. `lost`: earlier ones in its place
    that were sent by processes which ended before the reply.
    """

    id: int
    node: str
    digest: bytes
    parameters: str
    state: Literal["sent", "answered", "failed", "refused", "abandoned"]
    counted: bool = False
    lost: int = 0


class Journal:
    """One run's journal, used from one event loop.

    Args:
        path: of the file; None keeps it in memory.
        mode: of its file; with `read`, what is there is served and nothing is written, so that a replay leaves no trace.

    Attributes:
        in_flight: calls that were sent and not answered, when the journal was opened.
        replayed: calls that were served since.
        paid_twice: calls that were sent again, as nobody knows whether they were answered.
        diverged: the nodes at which a request was not the recorded one.

    Raises:
        JournalError: the file is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path | None = None, *, mode: Mode = "create") -> None:
        self.read_only = mode == "read"
        self.replayed = 0
        self.paid_twice = 0
        self.diverged: list[str] = []
        self._calls: dict[tuple[str, int], Call] = {}
        self.database = Database(path, schema=SCHEMA, version=SCHEMA_VERSION, mode=mode)
        self._read_calls()
        rows = self.database.rows("SELECT node, digest FROM answers WHERE NOT stale ORDER BY id")
        self._answers: dict[str, bytes] = dict(rows)
        self._latest: int = self.database.rows("SELECT coalesce(max(id), 0) FROM calls")[0][0]
        self.in_flight = sum(call.state == "sent" for call in self._calls.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.database.close()

    @property
    def recorded(self) -> int:
        """Calls that it has."""
        return len(self._calls)

    # Calls

    async def find(self, node: str, ordinal: int, request: Request) -> Found:
        """What is recorded of a call.

        A request that is not the recorded one ends the replay of its node and of all below it. A failure of the root's own
        calls is not served: it ended the run, and nothing acted on it.
        """
        call = self._calls.get((node, ordinal))
        if call is None:
            return Found()
        same_parameters = (
            self.read_only or call.parameters == request.parameters
        )  # of models that a replay does not have
        if call.digest != request.digest or not same_parameters:
            return Found(spent=await self._diverge(node), diverged=True)
        lost = 0 if call.counted or self.read_only else call.lost + (call.state in ("sent", "abandoned"))
        if call.state == "sent" or (node == ROOT and call.state != "answered"):
            self.paid_twice += call.state == "sent"
            return Found(lost=lost)
        self.replayed += 1
        spent = await self._count([call])
        return Found(outcome=await self.database.run(lambda: self._read(call)), spent=spent, lost=lost)

    async def sent(self, node: str, ordinal: int, request: Request) -> Call:
        """Note that a call is about to be sent."""
        self._latest += 1
        call = Call(id=self._latest, node=node, digest=request.digest, parameters=request.parameters, state="sent")
        self._calls[node, ordinal] = call
        texts: list[Statement] = [
            ("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", (part, message.role, message.content))
            for part, message in zip(request.parts, request.messages, strict=True)
        ]
        digests = json.dumps([part.hex() for part in request.parts])
        insert = (
            "INSERT INTO calls (id, node, ordinal, digest, model, parameters, messages, state, sent)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'sent', ?)",
            (call.id, node, ordinal, request.digest, request.model, request.parameters, digests, time.time()),
        )
        await self.database.write(*texts, insert, durable=False)
        return call

    async def ended(self, call: Call, outcome: ModelReply | Failure) -> None:
        """Make the outcome of a call durable. It is written also where the caller is cancelled meanwhile."""
        call.counted = True
        row: Sequence[object]
        match outcome:
            case ModelReply(text=text, usage=usage):
                call.state = "answered"
                row = (text, outcome.finish_reason, outcome.model, outcome.request_id, None)
                row = (*row, json.dumps(asdict(usage)), usage.cost_usd)
            case Failure(text=text):
                call.state = outcome.state
                row = (text, outcome.reason, None, outcome.request_id, outcome.status)
                billed = outcome.usage
                row = (*row, billed and json.dumps(asdict(billed)), billed and billed.cost_usd)
        update = (
            "UPDATE calls SET state = ?, text = ?, finish_reason = ?, reply_model = ?, request_id = ?, status = ?,"
            " usage = ?, cost_usd = ?, ended = ? WHERE id = ?"
        )
        await self.database.write((update, (call.state, *row, time.time(), call.id)), durable=True)

    # Recursive calls

    async def find_answer(self, node: str, digest: bytes) -> FoundAnswer | None:
        """The answer of a recursive call that had come to its end: its RLM need not run again.

        A read-only journal gives none, as a replay is to go through everything.
        """
        if self.read_only or self._answers.get(node) != digest:
            return None
        calls = [call for call in self._below(node) if not call.counted]
        self.replayed += len(calls)
        spent = await self._count(calls)
        select = "SELECT ok, text FROM answers WHERE node = ? ORDER BY id DESC LIMIT 1"
        ok, text = (await self.database.run(lambda: self.database.rows(select, (node,))))[0]
        rlms = sum(where == node or where.startswith(node + ".") for where in self._answers)
        return FoundAnswer(ok=bool(ok), text=text_of(text), spent=spent, rlms=rlms)

    async def answered(self, node: str, digest: bytes, *, ok: bool, text: str) -> None:
        """Make the answer of a recursive call durable."""
        if self.read_only:
            return
        self._answers[node] = digest
        insert = "INSERT INTO answers (node, digest, ok, text) VALUES (?, ?, ?, ?)"
        await self.database.write((insert, (node, digest, ok, text)), durable=True)

    async def abandon(self, node: str, text: str) -> None:
        """The cell ended before this plain call was answered. A replay is told `text` at once, and pays nothing."""
        for call in self._below(node):
            if call.state == "sent" and not self.read_only:
                await self.ended(call, Failure(state="abandoned", text=text))

    # What is in the record

    def _read_calls(self) -> None:
        select = "SELECT id, node, ordinal, digest, parameters, state FROM calls WHERE NOT stale ORDER BY id"
        for number, node, ordinal, digest, parameters, state in self.database.rows(select):
            before, lost = self._calls.get((node, ordinal)), 0
            if before is not None and before.state == "sent" and before.digest == digest:
                self.paid_twice += 1
                lost = before.lost + 1
            self._calls[node, ordinal] = Call(
                id=number, node=node, digest=digest, parameters=sys.intern(parameters), state=state, lost=lost
            )

    def _below(self, node: str) -> list[Call]:
        """The calls of a node and of all nodes below it."""
        below = node + "."
        return [call for call in self._calls.values() if call.node == node or call.node.startswith(below)]

    async def _diverge(self, node: str) -> Sequence[Spent]:
        """Forget what was recorded of a node and below it, but for what this process has used. Paid is paid: it counts."""
        self.diverged.append(node)
        unused = {call.id for call in self._below(node) if not call.counted}
        dropped = {place: call for place, call in self._calls.items() if call.id in unused}
        self._calls = {place: call for place, call in self._calls.items() if call.id not in unused}
        answers = [where for where in {where for where, _ in dropped} if self._answers.pop(where, None)]
        spent = await self._count(dropped.values())
        if not self.read_only:
            await self.database.write(
                *(("UPDATE calls SET stale = 1 WHERE node = ? AND ordinal = ?", place) for place in dropped),
                *(("UPDATE answers SET stale = 1 WHERE node = ?", (where,)) for where in answers),
                durable=False,
            )
        return spent

    async def _count(self, calls: Iterable[Call]) -> Sequence[Spent]:
        """What these calls used, of those that were not counted yet."""
        fresh = [call for call in calls if not call.counted]
        for call in fresh:
            call.counted = True
        used = [call.id for call in fresh if call.state in ("answered", "failed")]
        select = "SELECT node, model, usage FROM calls WHERE id = ?"

        def read() -> list[Spent]:
            rows = (self.database.rows(select, (number,))[0] for number in used)
            return [
                Spent(node=node, model=model, usage=Usage(**json.loads(usage)) if usage else Usage())
                for node, model, usage in rows
            ]

        return await self.database.run(read) if used else ()

    def _read(self, call: Call) -> ModelReply | Failure:
        select = "SELECT text, finish_reason, reply_model, request_id, status, usage FROM calls WHERE id = ?"
        row = self.database.rows(select, (call.id,))[0]
        text, finish_reason, model, request_id, status, usage = row
        if call.state == "answered":
            return ModelReply(
                text=text_of(text),
                usage=Usage(**json.loads(usage)),
                model=model,
                finish_reason=finish_reason,
                request_id=request_id,
            )
        assert call.state != "sent"
        return Failure(
            state=call.state,
            text=text_of(text),
            reason=finish_reason,
            status=status,
            request_id=request_id,
            usage=Usage(**json.loads(usage)) if usage else None,
        )
