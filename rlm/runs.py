"""The runs that are on the disk: what each was asked, how it stands, and what it has paid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .database import Database
from .errors import RLMError
from .hold import is_held
from .journal import FILE_NAME, SCHEMA, SCHEMA_VERSION
from .record import RunRecord

_PAID = "SELECT count(*), sum(cost_usd), count(*) - count(cost_usd) FROM calls WHERE state = 'answered'"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run. `state` is that of its record, but `interrupted` where its process is gone, and `damaged` where it cannot be
    read. `cost_usd` is None where a price is unknown. `by_name`: all its models were given by name.
    """

    run_id: str
    directory: Path
    state: str
    query: str | None = None
    calls: int = 0
    cost_usd: float | None = 0.0
    ended: float | None = None
    by_name: bool = False


def list_runs(root: Path) -> Iterator[RunSummary]:
    """All runs in a folder and those below it, the oldest first."""
    found = (path.parent for path in root.glob("**/run.json"))
    for directory in sorted(found, key=lambda directory: (directory.name, directory)):
        try:
            yield _summary(directory)
        except RLMError:
            yield RunSummary(run_id=directory.name, directory=directory, state="damaged")


def _summary(directory: Path) -> RunSummary:
    record = RunRecord.load(directory)
    calls, cost, unknown = 0, 0.0, 0
    if record.context is not None:
        database = Database(directory / FILE_NAME, schema=SCHEMA, version=SCHEMA_VERSION, mode="read")
        try:
            calls, cost, unknown = database.rows(_PAID)[0]
        finally:
            database.close()
    return RunSummary(
        run_id=record.run_id,
        directory=directory,
        state="interrupted" if record.state == "running" and not is_held(directory) else record.state,
        query=record.query,
        calls=calls,
        cost_usd=None if unknown else cost or 0.0,
        ended=record.ended,
        by_name=all(model.server is not None for model in record.models.values()),
    )
