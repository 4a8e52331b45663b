"""Owns a run's `run.json`: saves its changes in order, with the contexts and answers of its questions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from rlm._util.logs import get_logger
from rlm.errors import ConfigError, JournalError
from rlm.sandbox.values import Value
from rlm.types import StopPoint, StopReason

from .contexts import store_context
from .record import FurtherQuestion, RunRecord, State

_log = get_logger("rlm.run")


class RecordWriter:
    """Writes one run's record in a thread, so that the event loop never waits for the disk.

    A change that could not be saved fails all later ones, and `flush`.

    Args:
        record: the record as last saved.
        directory: of the run.
        read_only: only keep changes in memory, for a replay.

    Attributes:
        record: the record with all changes saved so far.
        directory: of the run.
        read_only: whether `run.json` stays unchanged.
    """

    def __init__(self, record: RunRecord, directory: Path, *, read_only: bool = False) -> None:
        self.record = record
        self.directory = directory
        self.read_only = read_only
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rlm-record")
        self._closing = threading.Event()
        self._failure: Exception | None = None

    def begin(self, digests: Mapping[str, str], context: Value | None, source: Path | None) -> None:
        """Save the digests, and store the first question's context unless it is None, in the background.

        Call `flush` before anything that costs money.
        """
        self._submit(partial(self._begin, digests, context, source))

    def raise_limits(self, limits: Mapping[str, float | None]) -> None:
        """Save limits that have been raised, in the background."""
        self._submit(lambda: self._save(raised={**self.record.raised, **limits}))

    async def flush(self) -> None:
        """Wait until all changes are saved.

        Raises:
            JournalError: the disk is full or failed.
            ConfigError: the path of the context is unreadable.
        """
        await self._wait_for(lambda: None)

    async def add_question(self, query: str, context: Value | None, source: Path | None) -> None:
        """Store a further question, which the RLM already has, and its context.

        Raises:
            JournalError: the disk is full or failed, or the path of the context became unreadable.
        """
        await self._wait_for(partial(self._add_question, query, context, source))

    async def record_answer(self, answer: str, *, number: int, stop_reason: StopReason, stop: StopPoint | None) -> None:
        """Write `answer.txt`, and save how question `number` (from 0) ended. Raises what `flush` does."""
        await self._wait_for(partial(self._record_answer, answer, number, stop_reason, stop))

    async def close(self, state: State) -> None:
        """Save how the run ended, and stop. Does not finish storing a context.

        A failure is logged, not raised. The record then still says `running`, but the lock is free. So the run counts as
        interrupted and can be resumed.
        """
        self._closing.set()
        end = asyncio.wrap_future(self._thread.submit(self._end, state))
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.shield(end)  # from asyncio's own cancellation
        finally:
            self._thread.shutdown()  # nothing may be written once the lock is free

    # In the thread

    def _submit(self, change: Callable[[], None]) -> Future[None]:
        return self._thread.submit(self._apply, change)

    async def _wait_for(self, change: Callable[[], None]) -> None:
        await asyncio.shield(asyncio.wrap_future(self._submit(change)))

    def _apply(self, change: Callable[[], None]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            change()
        except Exception as error:
            self._failure = error
            raise

    def _save(self, **changes: Any) -> None:
        self.record = replace(self.record, **changes)
        if not self.read_only:
            self.record.save(self.directory)

    def _begin(self, digests: Mapping[str, str], context: Value | None, source: Path | None) -> None:
        if context is None:
            self._save(digests=digests)
        else:
            self._save(digests=digests, context=store_context(self.directory, context, source, self._closing))

    def _add_question(self, query: str, context: Value | None, source: Path | None) -> None:
        number = len(self.record.further) + 1
        stored = None
        try:
            if context is not None:
                stored = store_context(self.directory, context, source, self._closing, number=number)
        except ConfigError as error:  # too late for another try: the RLM has the question
            raise JournalError(f"Cannot store the context of question {number + 1}: {error}") from error
        self._save(further=(*self.record.further, FurtherQuestion(query=query, context=stored)))

    def _record_answer(self, answer: str, number: int, stop_reason: StopReason, stop: StopPoint | None) -> None:
        try:
            (self.directory / "answer.txt").write_bytes(answer.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise JournalError(
                f"Cannot write the answer to {self.directory} ({error.strerror}): free some space, then resume the run."
            ) from error
        stops = self.record.stops if stop is None else {**self.record.stops, number: stop}
        self._save(stop_reason=stop_reason, answered=max(self.record.answered, number + 1), stops=stops)

    def _end(self, state: State) -> None:
        reasons: Mapping[State, StopReason | None] = {"finished": self.record.stop_reason, "interrupted": "cancelled"}
        try:
            self._save(state=state, stop_reason=reasons.get(state), ended=time.time())
        except JournalError as error:
            _log.warning("run_not_closed", run=self.record.run_id, reason=str(error))
