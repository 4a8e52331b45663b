"""The durable record of a run's model calls (`journal.sqlite`), and what a replay is served from.

A call is known by its place: the node that made it, and its ordinal there. Its digest says whether the request is the same
as the recorded one. A query's node is known by what it asks (queries.py). A reply is on the disk before anyone sees it.
That a query is made and a call sent is written before, but without fsync: it outlives the process, though not a power cut,
after which the count of calls paid twice may be too low.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

from rlm.models.request import Request
from rlm.types import ModelReply, Usage

from .database import Database, Mode, Statement, text_of
from .entries import (
    GIVEN_BACK,
    ROOT,
    SCHEMA,
    SCHEMA_VERSION,
    Call,
    CallLookup,
    Failure,
    QueryPlacement,
    RecordedAnswer,
    RecordedUsage,
)
from .queries import Queries


class Journal:
    """One run's journal, used from one event loop.

    Args:
        path: of the file; None keeps it in memory.
        mode: of its file; with `read`, what is there is served and nothing is written, so that a replay leaves no trace.
        ended: the run came to its end, also where a failure of the root's was the last of it.

    Attributes:
        queries: that cells have made.
        in_flight: calls that were sent and not answered, when the journal was opened.
        replayed: calls that were served since.
        resent_calls: calls that were sent again, as nobody knows whether they were answered.
        diverged: the nodes at which a request was not the recorded one.

    Raises:
        JournalError: the file is damaged, or was written by a version that is newer or too old.
    """

    def __init__(self, path: Path | None = None, *, mode: Mode = "create", ended: bool = False) -> None:
        self.read_only = mode == "read"
        self._ended = ended or self.read_only
        self.replayed = 0
        self.resent_calls = 0
        self.diverged: list[str] = []
        self.queries = Queries()
        self._answers: dict[str, bool] = {}  # of queries: whether it is a good one
        self._calls: dict[tuple[str, int], Call] = {}
        self._reached: dict[str, int] = {}  # by node: the call that was asked for last
        self._sent_again: list[int] = []  # calls in whose place there is a later one
        self.database = Database(path, schema=SCHEMA, version=SCHEMA_VERSION, oldest=SCHEMA_VERSION, mode=mode)
        self._read_calls()
        self._read_queries()
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

    def usage_of_stale_calls(self) -> Sequence[RecordedUsage]:
        """What calls used that an earlier replay has left aside, or sent again. Before anything else."""
        return [*self._spent("stale"), *self._spent_by(self._sent_again)]

    # Calls

    async def find(self, node: str, ordinal: int, request: Request) -> CallLookup:
        """What is recorded of a call.

        A request that is not the recorded one ends the replay of its node and of all below it. A failure of the root's own
        calls that is the last of them is not served if it ended the work on a run that can go on: nothing acted on it.
        """
        self._reached[node] = ordinal
        call = self._calls.get((node, ordinal))
        if call is None:
            return await self.leave(node)
        same_parameters = (
            self.read_only or call.parameters == request.parameters
        )  # of models that a replay does not have
        if call.digest != request.digest or not same_parameters:
            return CallLookup(spent=await self._diverge(node), diverged=[node])
        acted_on = call.state in ("answered", "abandoned")
        ended_the_work = node == ROOT and not acted_on and not (self._ended or self._goes_on(node))
        if call.state == "sent" or ended_the_work:
            self.resent_calls += call.state == "sent"
            return CallLookup(spent=await self._count([call]))
        self.replayed += 1
        spent = await self._count([call])
        return CallLookup(outcome=await self.database.run(lambda: self._read(call)), spent=spent)

    async def leave(self, node: str) -> CallLookup:
        """Where the record of an RLM ends: queries that it has, and that were not made again, are not what its cells ask."""
        left = () if self._goes_on(node) else self.queries.left(node)
        if not left:
            return CallLookup()
        gone = set(self.queries.forget(node))
        calls = [call for call in self._calls.values() if call.node in gone]
        # A call that its cell did not wait for is made or not, as it happens.
        awaited = {call.node[len(node) + 1 :].partition(".")[0] for call in calls if call.state != "abandoned"}
        diverged = [query for query in left if query[len(node) + 1 :] in awaited]
        self.diverged += diverged
        return CallLookup(spent=await self._drop(calls, gone), diverged=diverged)

    async def skip(self, node: str, *, requests: int, queries: int) -> Sequence[RecordedUsage]:
        """An RLM's requests and queries up to these numbers. Those that are left were cut off, and are not made again."""
        gone = set(self.queries.forget(node, until=queries))
        return await self._count(
            call
            for call in self._calls.values()
            if call.node in gone or (call.node == node and call.ordinal <= requests)
        )

    async def undo(self, requests: int) -> None:
        """The root goes on after so many requests: what it asked for then, to answer with what it had, is gone.

        Before anything else.
        """
        gone = [call for call in self._below(ROOT) if call.node == ROOT and call.ordinal > requests]
        for call in gone:
            del self._calls[call.node, call.ordinal]
        await self.database.write(*map(_stale, gone), durable=True)

    async def sent(
        self,
        node: str,
        ordinal: int,
        request: Request,
        *,
        reserved_tokens: int = 0,
        reserved_usd: float = 0.0,
    ) -> Call:
        """Note that a call is about to be sent, for which so much has been set aside."""
        parts = [part.hex() for part in request.parts]
        call, insert = self._begin(node, ordinal, request, parts, reserved_tokens, reserved_usd)
        texts: list[Statement] = [
            ("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", (part, message.role, message.content))
            for part, message in zip(request.parts, request.messages, strict=True)
        ]
        await self.database.write(*texts, insert, durable=False)
        return call

    async def refused(self, node: str, ordinal: int, request: Request, failure: Failure) -> None:
        """Make it durable that the budget refused a call. Its messages are not kept: it costs a cell nothing, and would fill
        the disk.
        """
        call, insert = self._begin(node, ordinal, request, [])
        await self.database.write(insert, self._end(call, failure), durable=True)

    def _begin(
        self, node: str, ordinal: int, request: Request, parts: Sequence[str], tokens: int = 0, dollars: float = 0.0
    ) -> tuple[Call, Statement]:
        self._latest += 1
        call = Call(
            id=self._latest,
            node=node,
            ordinal=ordinal,
            digest=request.digest,
            parameters=request.parameters,
            state="sent",
            counted=True,
        )
        self._calls[node, ordinal] = call
        insert = (
            "INSERT INTO calls (id, node, ordinal, digest, model, parameters, messages, state, reserved_tokens,"
            " reserved_usd, sent) VALUES (?, ?, ?, ?, ?, ?, ?, 'sent', ?, ?, ?)",
            (
                *(call.id, node, ordinal, request.digest, request.model, request.parameters),
                *(json.dumps(parts), tokens, dollars, time.time()),
            ),
        )
        return call, insert

    async def ended(self, call: Call, outcome: ModelReply | Failure) -> None:
        """Make the outcome of a call durable. It is written also where the caller is cancelled meanwhile."""
        await self.database.write(self._end(call, outcome), durable=True)

    async def cut_off(self, node: str, ordinal: int, text: str) -> None:
        """The time for a call and what follows from it was up, before its reply or after: a replay is told so at once."""
        call = self._calls.get((node, ordinal))
        if call is None:
            return
        if call.state == "sent":
            await self.ended(call, Failure(state="abandoned", text=text))
        elif call.state == "answered":
            call.state = "abandoned"
            await self.database.write(("UPDATE calls SET state = ? WHERE id = ?", (call.state, call.id)), durable=True)

    def _end(self, call: Call, outcome: ModelReply | Failure) -> Statement:
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
        return update, (call.state, *row, time.time(), call.id)

    def was_sent(self, node: str) -> bool:
        """Whether a plain query came to a call."""
        return (node, 1) in self._calls

    async def outcome(self, node: str) -> ModelReply | Failure:
        """How the call of a plain query ended."""
        call = self._calls[node, 1]
        return await self.database.run(lambda: self._read(call))

    # Queries

    def ask(self, rlm: str, digest: bytes) -> QueryPlacement:
        """The node of a query that a cell of this RLM makes: that of a recorded one which asked the same, else a new one."""
        node = self.queries.take(rlm, digest)
        if node is not None:
            return QueryPlacement(node=node, diverged=False)
        node = self.queries.new(rlm, digest)
        if not self.read_only:
            self.database.add(("INSERT INTO queries (node, digest) VALUES (?, ?)", (node, digest)))
        diverged = self.read_only or self._goes_on(rlm)
        if diverged:
            self.diverged.append(node)
        return QueryPlacement(node=node, diverged=diverged)

    async def find_answer(self, node: str) -> RecordedAnswer | None:
        """The answer to a query that had come to its end: its RLM need not run again.

        A read-only journal gives failures alone, which may have had reasons outside of the run: a replay is to go through
        everything else.
        """
        if node not in self._answers or (self.read_only and self._answers[node]):
            return None
        calls = [call for call in self._below(node) if not call.counted]
        self.replayed += len(calls)
        spent = await self._count(calls)
        begun = [where for where in self._answers if where == node or where.startswith(node + ".")]
        rlms = sum((where, 1) in self._calls for where in begun)
        return replace(await self.answer(node), spent=spent, rlms=rlms)

    async def answer(self, node: str) -> RecordedAnswer:
        """What was answered to a query that `has_answer`."""
        select = "SELECT text FROM queries WHERE node = ?"
        rows = await self.database.run(lambda: self.database.rows(select, (node,)))
        return RecordedAnswer(ok=self._answers[node], text=text_of(rows[0][0]))

    def has_answer(self, node: str) -> bool:
        """Whether the answer to a query is recorded as such. Of a plain one that was sent it is the outcome of its call."""
        return node in self._answers

    async def answered(self, node: str, *, ok: bool, text: str) -> None:
        """Make the answer to a query durable."""
        answer = self._answer(node, ok=ok, text=text)
        if not self.read_only:
            await self.database.write(answer, durable=True)

    def _answer(self, node: str, *, ok: bool, text: str) -> Statement:
        self._answers[node] = ok
        return "UPDATE queries SET ok = ?, text = ? WHERE node = ?", (ok, text, node)

    async def abandon(self, queries: Mapping[str, bool], text: str) -> None:
        """The cell ended before these queries, recursive or not, were answered. A replay is told `text` at once, unpaid."""
        late: list[Statement] = []
        for node, recursive in queries.items():
            plain = [self._calls[node, 1]] if self.was_sent(node) else []
            sent = [call for call in (self._below(node) if recursive else plain) if call.state == "sent"]
            if not self.read_only:
                late += [self._end(call, Failure(state="abandoned", text=text)) for call in sent]
            if recursive or not plain:
                late.append(self._answer(node, ok=False, text=text))
        if late and not self.read_only:
            await self.database.write(*late, durable=True)

    # What is in the record

    def _read_calls(self) -> None:
        select = "SELECT id, node, ordinal, digest, parameters, state FROM calls WHERE NOT stale ORDER BY id"
        for number, node, ordinal, digest, parameters, state in self.database.rows(select):
            before = self._calls.get((node, ordinal))
            if before is not None:
                self.resent_calls += before.state == "sent" and before.digest == digest
                self._sent_again.append(before.id)
            self._calls[node, ordinal] = Call(
                id=number,
                node=node,
                ordinal=ordinal,
                digest=digest,
                parameters=sys.intern(parameters),
                state=state,
            )

    def _read_queries(self) -> None:
        for node, digest, ok, stale in self.database.rows("SELECT node, digest, ok, stale FROM queries"):
            self.queries.record(node, digest, stale=bool(stale))
            if ok is not None and not stale:
                self._answers[node] = bool(ok)

    def _below(self, node: str) -> list[Call]:
        """The calls of a node and of all nodes below it."""
        below = node + "."
        return [call for call in self._calls.values() if call.node == node or call.node.startswith(below)]

    async def _diverge(self, node: str) -> Sequence[RecordedUsage]:
        """Another request than the recorded one: what was recorded of a node and below it is gone."""
        self.diverged.append(node)
        return await self._drop(self._below(node), self.queries.forget(node))

    async def _drop(self, calls: Iterable[Call], queries: Iterable[str] = ()) -> Sequence[RecordedUsage]:
        """Forget calls, but for those that this process has used. Paid is paid: they count."""
        unused = [call for call in calls if call.state == "sent" or not call.counted]
        for call in unused:
            del self._calls[call.node, call.ordinal]
        spent = await self._count(unused)
        if not self.read_only:
            await self.database.write(
                *map(_stale, unused),
                *(("UPDATE queries SET stale = 1 WHERE node = ?", (query,)) for query in queries),
                durable=False,
            )
        return spent

    def _goes_on(self, node: str) -> bool:
        """Whether a node's call after the one that it has asked for last is in the record."""
        return (node, self._reached.get(node, 0) + 1) in self._calls

    async def _count(self, calls: Iterable[Call]) -> Sequence[RecordedUsage]:
        """What these calls used, of those that were not counted yet."""
        fresh = [call for call in calls if not call.counted]
        for call in fresh:
            call.counted = True
        return await self.database.run(lambda: self._spent_by(call.id for call in fresh)) if fresh else ()

    def _spent_by(self, ids: Iterable[int]) -> list[RecordedUsage]:
        return [spent for number in ids for spent in self._spent("id = ?", (number,))]

    def _spent(self, where: str, values: Sequence[object] = ()) -> list[RecordedUsage]:
        """What calls used that were sent, as what the budget refused was not, and that count."""
        select = "SELECT node, model, usage, state, reserved_tokens, reserved_usd FROM calls"
        counting = f"state != 'refused' AND finish_reason IS NOT '{GIVEN_BACK}'"
        rows = self.database.rows(f"{select} WHERE {where} AND {counting}", values)
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


def _stale(call: Call) -> Statement:
    return "UPDATE calls SET stale = 1 WHERE id = ?", (call.id,)
