"""Lists the runs on disk, with their questions, states and costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rlm.errors import RLMError
from rlm.types import Usage

from .database import Database
from .entries import FILE_NAME, ROOT, SCHEMA, SCHEMA_VERSION, TOO_LONG
from .lock import is_locked
from .record import RunRecord

_PAID = "SELECT count(*), sum(cost_usd), count(*) - count(cost_usd) FROM calls WHERE state = 'answered'"
_CALLS = "SELECT node, state, finish_reason, usage, stale FROM calls ORDER BY id"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run on disk.

    Attributes:
        run_id: ID of the run, which is the name of its directory.
        directory: the run directory.
        state: state of its record; `interrupted` if its process is gone; `damaged` if its files are unreadable.
        query: the question, if known.
        calls: number of answered model calls; None if damaged.
        cost_usd: cost of these calls, in dollars; None if a price is unknown.
        ended: time of its end, in seconds since the epoch.
        by_name: whether the caller passed all models by name, so that the command line can resume it.
    """

    run_id: str
    directory: Path
    state: str
    query: str | None = None
    calls: int | None = None
    cost_usd: float | None = None
    ended: float | None = None
    by_name: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunUsage:
    """The usage of a run's recorded calls, including stale ones.

    Attributes:
        by_node: usage by node.
        failed: number of calls below the root without a reply after the client's retries. Prompts that exceed the window
            do not count, because another attempt would fail, too.
    """

    by_node: Mapping[str, Usage]
    failed: int


def usage_of_run(directory: Path) -> RunUsage:
    """Read the usage from the journal of a run. Raises JournalError if it is missing or damaged."""
    by_node: dict[str, Usage] = {}
    failed = 0
    with closing(_journal(directory)) as database:
        for node, state, reason, usage, stale in database.rows(_CALLS):
            if usage is not None:
                by_node[node] = by_node.get(node, Usage()) + Usage(**json.loads(usage))
            failed += state in ("failed", "lost") and node != ROOT and reason != TOO_LONG and not stale
    return RunUsage(by_node=by_node, failed=failed)


def _journal(directory: Path) -> Database:
    return Database(directory / FILE_NAME, schema=SCHEMA, version=SCHEMA_VERSION, mode="read")


def list_runs(root: Path) -> Iterator[RunSummary]:
    """All runs below a folder, oldest first."""
    found = (path.parent for path in root.glob("**/run.json") if path.parent != root)
    for directory in sorted(found, key=lambda directory: (directory.name, directory)):
        try:
            yield _summary(directory)
        except RLMError:
            yield RunSummary(run_id=directory.name, directory=directory, state="damaged")


def _summary(directory: Path) -> RunSummary:
    record = RunRecord.load(directory)
    calls, cost, unknown = 0, 0.0, 0
    if record.context is not None:
        with closing(_journal(directory)) as database:
            calls, cost, unknown = database.rows(_PAID)[0]
    return RunSummary(
        run_id=directory.name,
        directory=directory,
        state="interrupted" if record.state == "running" and not is_locked(directory) else record.state,
        query=record.query,
        calls=calls,
        cost_usd=None if unknown else cost or 0.0,
        ended=record.ended,
        by_name=all(model.server is not None for model in record.models.values()),
    )
