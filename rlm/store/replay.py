"""Decides which calls and queries a journal serves, and which have to be made. Imports models and types.

A call is identified by its node and its ordinal there. Its digest shows whether the request is the recorded one.
A query is identified by its digest (queries.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rlm.models.request import Request
from rlm.types import ModelReply

from .entries import ROOT, Call, CallLookup, Failure, QueryPlacement, RecordedAnswer, RecordedUsage
from .journal import Journal
from .queries import Queries


class Replay:
    """The index of one run's journal. Calls and queries are looked up and recorded through it.

    Args:
        journal: the run's journal, before any write.
        ended: whether the run had ended. Then a failure of the root's last call is served, too.

    Attributes:
        journal: records calls and queries.
        queries: queries of cells.
        in_flight: number of calls without an outcome when the journal was opened.
        replayed: number of calls served from the journal since then.
        resent_calls: number of calls sent again because their outcome is unknown.
        diverged: nodes whose requests or queries differ from the recorded ones.
    """

    def __init__(self, journal: Journal, *, ended: bool = False) -> None:
        self.journal = journal
        self._ended = ended or journal.read_only
        self.replayed = 0
        self.resent_calls = 0
        self.diverged: list[str] = []
        self.queries = Queries()
        self._answers: dict[str, bool] = {}  # whether the answer is a success, by query
        self._calls: dict[tuple[str, int], Call] = {}
        self._reached: dict[str, int] = {}  # ordinal of the latest look-up, by node
        self._replaced: list[int] = []  # ids of calls that were sent again
        for call in journal.calls():
            before = self._calls.get((call.node, call.ordinal))
            if before is not None:
                self.resent_calls += before.state == "sent" and before.digest == call.digest
                self._replaced.append(before.id)
            self._calls[call.node, call.ordinal] = call
        for query in journal.queries():
            self.queries.record(query.node, query.digest, stale=query.stale)
            if query.ok is not None and not query.stale:
                self._answers[query.node] = query.ok
        self.in_flight = sum(call.state == "sent" for call in self._calls.values())

    @property
    def read_only(self) -> bool:
        """Whether this is a replay of a finished run: nothing is recorded, and nothing may be sent."""
        return self.journal.read_only

    @property
    def recorded(self) -> int:
        """The number of calls in the journal."""
        return len(self._calls)

    def usage_of_stale_calls(self) -> Sequence[RecordedUsage]:
        """The usage of calls that an earlier replay discarded or sent again. Call it before any write."""
        return [*self.journal.usage_of_stale(), *self.journal.usage_of(self._replaced)]

    # Calls

    async def find_call(self, node: str, ordinal: int, request: Request) -> CallLookup:
        """The outcome of a recorded call, if it can be served.

        A request that differs from the recorded one ends the replay of its node and of all nodes below. The root's last call
        is made again if it failed and the run had not ended, because nothing acted on that failure.
        """
        self._reached[node] = ordinal
        call = self._calls.get((node, ordinal))
        if call is None:
            return await self.finish_node(node)
        # A read-only replay has no models, and so no parameters to compare.
        same_parameters = self.read_only or call.parameters == request.parameters
        if call.digest != request.digest or not same_parameters:
            return CallLookup(usage=await self._diverge(node), diverged=[node])
        acted_on = call.state in ("answered", "abandoned")
        ended_the_work = node == ROOT and not acted_on and not (self._ended or self._has_next_call(node))
        if call.state == "sent" or ended_the_work:
            self.resent_calls += call.state == "sent"
            return CallLookup(usage=await self._count([call]))
        self.replayed += 1
        usage = await self._count([call])
        return CallLookup(outcome=await self.journal.read_outcome(call), usage=usage)

    async def finish_node(self, node: str) -> CallLookup:
        """Discard the pending queries of an RLM whose recorded calls are used up: its cells no longer make them."""
        pending = () if self._has_next_call(node) else self.queries.pending(node)
        if not pending:
            return CallLookup()
        discarded = set(self.queries.discard(node))
        calls = [call for call in self._calls.values() if call.node in discarded]
        # It is chance whether a cell makes a call that it does not wait for, so a missing one is no divergence.
        awaited = {call.node[len(node) + 1 :].partition(".")[0] for call in calls if call.state != "abandoned"}
        diverged = [query for query in pending if query[len(node) + 1 :] in awaited]
        self.diverged += diverged
        return CallLookup(usage=await self._discard(calls, discarded), diverged=diverged)

    async def mark_cut_off(self, node: str, *, requests: int, queries: int) -> Sequence[RecordedUsage]:
        """Count an RLM's calls up to these numbers. Pending queries among them were cut off, and do not run again."""
        cut_off = set(self.queries.discard(node, until=queries))
        return await self._count(
            call
            for call in self._calls.values()
            if call.node in cut_off or (call.node == node and call.ordinal <= requests)
        )

    async def rewind_to(self, requests: int) -> None:
        """Drop the root's requests after this number, so that its work continues there. Call it before any look-up."""
        dropped = [call for call in self._below(ROOT) if call.node == ROOT and call.ordinal > requests]
        for call in dropped:
            del self._calls[call.node, call.ordinal]
        await self.journal.mark_stale(dropped, durable=True)

    async def record_sent(
        self,
        node: str,
        ordinal: int,
        request: Request,
        *,
        reserved_tokens: int = 0,
        reserved_usd: float = 0.0,
    ) -> Call:
        """Record a call before it is sent, with its reservation."""
        call = self._calls[node, ordinal] = self.journal.new_call(node, ordinal, request)
        await self.journal.record_sent(call, request, reserved_tokens=reserved_tokens, reserved_usd=reserved_usd)
        return call

    async def record_refusal(self, node: str, ordinal: int, request: Request, failure: Failure) -> None:
        """Record a call that the budget refused."""
        call = self._calls[node, ordinal] = self.journal.new_call(node, ordinal, request)
        await self.journal.record_refusal(call, request, failure)

    async def record_outcome(self, call: Call, outcome: ModelReply | Failure) -> None:
        """Record how a call ended, even if the caller is cancelled."""
        await self.journal.record_outcome(call, outcome)

    async def abandon_call(self, node: str, ordinal: int, text: str) -> None:
        """Record that time ran out for a call, before or after its reply. A replay fails it with `text`."""
        call = self._calls.get((node, ordinal))
        if call is None:
            return
        if call.state == "sent":
            await self.journal.record_outcome(call, Failure(state="abandoned", text=text))
        elif call.state == "answered":
            call.state = "abandoned"
            await self.journal.record_state(call)

    # Queries

    def place_query(self, rlm: str, digest: bytes) -> QueryPlacement:
        """The node of a query: that of this RLM's recorded query with the same digest, else a new one."""
        node = self.queries.take(rlm, digest)
        if node is not None:
            return QueryPlacement(node=node, diverged=False)
        node = self.queries.add(rlm, digest)
        self.journal.add_query(node, digest)
        diverged = self.read_only or self._has_next_call(rlm)
        if diverged:
            self.diverged.append(node)
        return QueryPlacement(node=node, diverged=diverged)

    async def lookup_answer(self, node: str) -> RecordedAnswer | None:
        """The recorded answer to a query, if it can be served without running its RLM again.

        A read-only replay repeats everything except failures, whose causes may lie outside the run.
        """
        if node not in self._answers or (self.read_only and self._answers[node]):
            return None
        calls = [call for call in self._below(node) if not call.counted]
        self.replayed += len(calls)
        usage = await self._count(calls)
        answered = [query for query in self._answers if query == node or query.startswith(node + ".")]
        rlms = sum((query, 1) in self._calls for query in answered)
        text = await self.journal.read_answer(node)
        return RecordedAnswer(ok=self._answers[node], text=text, usage=usage, rlms=rlms)

    async def served_answer(self, node: str) -> RecordedAnswer | ModelReply | Failure:
        """The answer that this process gave to a query before. For a plain query, this is the outcome of its call."""
        if node in self._answers:
            return RecordedAnswer(ok=self._answers[node], text=await self.journal.read_answer(node))
        return await self.journal.read_outcome(self._calls[node, 1])

    async def record_answer(self, node: str, *, recursive: bool, ok: bool, text: str) -> None:
        """Record the answer to a query, unless it is the outcome of a plain query's call, which is recorded already."""
        if recursive or (node, 1) not in self._calls:
            self._answers[node] = ok
            await self.journal.record_answer(node, ok=ok, text=text)

    async def abandon_queries(self, queries: Mapping[str, bool], text: str) -> None:
        """Record queries (with whether they are recursive) whose cell ended before their answer. A replay fails them with
        `text`, and makes no call.
        """
        calls: list[Call] = []
        unanswered: list[str] = []
        for node, recursive in queries.items():
            plain = [self._calls[node, 1]] if (node, 1) in self._calls else []
            calls += [call for call in (self._below(node) if recursive else plain) if call.state == "sent"]
            if recursive or not plain:
                unanswered.append(node)
                self._answers[node] = False
        await self.journal.record_abandoned(calls, unanswered, text)

    def _below(self, node: str) -> list[Call]:
        """The calls of a node and of all nodes below it."""
        below = node + "."
        return [call for call in self._calls.values() if call.node == node or call.node.startswith(below)]

    def _has_next_call(self, node: str) -> bool:
        """Whether the journal has the call after the one that this node looked up last."""
        return (node, self._reached.get(node, 0) + 1) in self._calls

    async def _diverge(self, node: str) -> Sequence[RecordedUsage]:
        """Discard a node and all nodes below it, because it made a request that differs from the recorded one."""
        self.diverged.append(node)
        return await self._discard(self._below(node), self.queries.discard(node))

    async def _discard(self, calls: Iterable[Call], queries: Iterable[str]) -> Sequence[RecordedUsage]:
        """Discard calls that this process has not used. They count, because they are paid for."""
        unused = [call for call in calls if call.state == "sent" or not call.counted]
        for call in unused:
            del self._calls[call.node, call.ordinal]
        usage = await self._count(unused)
        await self.journal.mark_stale(unused, queries, durable=False)
        return usage

    async def _count(self, calls: Iterable[Call]) -> Sequence[RecordedUsage]:
        """The usage of those calls that have not been counted yet."""
        fresh = [call for call in calls if not call.counted]
        for call in fresh:
            call.counted = True
        return await self.journal.read_usage(fresh)
