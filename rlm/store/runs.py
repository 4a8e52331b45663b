"""The runs that are on the disk: what each was asked, how it stands, and what it has paid."""

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
    """One run. `run_id` is the name of its directory, by which it is found. `state` is that of its record, but `interrupted`
    where its process is gone, and `damaged` where it cannot be read: `calls` is None then. `cost_usd` is None where a price
    is unknown, too. `by_name`: all its models were given by name.
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
class Used:
    """What the calls of a run used, by node, also of a run that failed or is no longer gone through.

    `failed`: so many calls below the root got no reply from their provider, after the client's retries. Prompts that were
    too long for their model are not among them: another attempt would do no better.
    """

    by_node: Mapping[str, Usage]
    failed: int


def used(directory: Path) -> Used:
    """Read from the run's journal. Raises JournalError where there is none, or it is damaged."""
    by_node: dict[str, Usage] = {}
    failed = 0
    with closing(_journal(directory)) as database:
        for node, state, reason, usage, stale in database.rows(_CALLS):
            if usage is not None:
                by_node[node] = by_node.get(node, Usage()) + Usage(**json.loads(usage))
            failed += state in ("failed", "lost") and node != ROOT and reason != TOO_LONG and not stale
    return Used(by_node=by_node, failed=failed)


def _journal(directory: Path) -> Database:
    return Database(directory / FILE_NAME, schema=SCHEMA, version=SCHEMA_VERSION, mode="read")


def list_runs(root: Path) -> Iterator[RunSummary]:
    """All runs in a folder, which is none itself, and those below it, the oldest first."""
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
