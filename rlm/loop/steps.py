"""The steps of one RLM, which are requests to its model and cells. Counted, so that a replay stops where the run did.

Imports calls and what is below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rlm.calls.gateway import Calls
from rlm.types import CellResult, Message, ModelReply, StopPoint, StopReason

from .repl import Repl
from .task import RLMTask

OUTSIDE_REASONS: Final[Mapping[StopReason, str]] = {  # stops that no step causes, in words for the model
    "max_seconds": "the time of the run is used up",
    "stopped": "your user asks for the answer now",
}


class Stop(Exception):
    """The work of an RLM stops before it has an answer. Its last turn follows. `at` is set if the work can continue."""

    def __init__(self, reason: StopReason, sentence: str, *, at: StopPoint | None = None) -> None:
        super().__init__(sentence)
        self.reason: StopReason = reason
        self.at = at


class Steps:
    """Takes the steps of one RLM, and counts them."""

    def __init__(self, task: RLMTask, calls: Calls, repl: Repl) -> None:
        self._task = task
        self._calls = calls
        self._repl = repl
        self._requests = self._replies = self._cells = 0
        self._stop_at: StopPoint | None = None

    def stop_at(self, point: StopPoint | None) -> None:
        """Stop again at a recorded point. The journal itself replays refusals, so only stops from outside matter."""
        self._stop_at = point if point is not None and point.reason in OUTSIDE_REASONS else None

    async def request(self, messages: Sequence[Message], *, last: bool = False) -> ModelReply:
        """Get a reply of the RLM's model. Raises Stop, and the errors of `Calls.complete`."""
        await self._replay_stop()
        self._requests += 1
        reply = await self._calls.complete(
            self._task.model, messages, node=self._task.node, ordinal=self._requests, role="root", last=last
        )
        self._replies += 1
        return reply

    async def abandon_request(self) -> None:
        """Record that time ran out for the latest request."""
        await self._calls.abandon(self._task.node, self._requests)

    async def run_cell(self, code: str, *, calls: bool = True) -> CellResult:
        """Run a cell, which may make queries if `calls` is set. Raises Stop, and the errors of `Repl.run`."""
        await self._replay_stop()
        result = await self._repl.run(code, calls=calls)
        self._cells += 1
        return result

    def stop(self, reason: StopReason) -> Stop:
        """A stop from outside, at the current point."""
        return Stop(reason, OUTSIDE_REASONS[reason], at=self._stop_point(reason, requests=self._requests))

    def refusal(self, reason: StopReason, sentence: str) -> Stop:
        """The stop for a request that the budget refused, at the point before that request."""
        return Stop(reason, sentence, at=self._stop_point(reason, requests=self._requests - 1))

    def _stop_point(self, reason: StopReason, *, requests: int) -> StopPoint:
        return StopPoint(
            reason=reason,
            replies=self._replies,
            cells=self._cells,
            requests=requests,
            queries=self._calls.replay.queries.latest(self._task.node),
        )

    async def _replay_stop(self) -> None:
        point = self._stop_at
        if point is not None and (point.replies, point.cells) == (self._replies, self._cells):
            self._stop_at = None
            self._requests = point.requests
            await self._calls.mark_cut_off(self._task.node, requests=point.requests, queries=point.queries)
            raise Stop(point.reason, OUTSIDE_REASONS[point.reason], at=point)
