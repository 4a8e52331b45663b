"""Progress of an evaluation on standard error: a live table on a terminal, otherwise a line for each finished job."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rlm._util.text import dollars, printable
from rlm.live.view import deferred_logs

from .plan import format_length
from .results import Job, JobKey, ResultRow

REFRESHES_PER_SECOND: Final = 4


@dataclass(slots=True)
class _Group:
    """Counts of one task, length and method."""

    total: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    score: float = 0.0
    cost: float | None = 0.0


class Progress:
    """A context manager that shows jobs as they start and finish.

    Args:
        jobs: all jobs of the evaluation.
        final: the rows that a resumed evaluation keeps.
        console: where the table goes; standard error by default.
    """

    def __init__(self, jobs: Sequence[Job], final: Iterable[ResultRow], *, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._groups: dict[tuple[str, int, str], _Group] = {}
        for job in jobs:
            self._group(job.key).total += 1
        for row in final:
            self._add(row)
        self._live = Live(
            self.render(), console=self._console, refresh_per_second=REFRESHES_PER_SECOND, get_renderable=self.render
        )
        self._open = ExitStack()

    def start(self, key: JobKey) -> None:
        """Count a job that has started."""
        self._group(key).running += 1

    def row(self, row: ResultRow) -> None:
        """Count a finished job. Off a terminal, also print its line."""
        self._group(row.key).running -= 1
        self._add(row)
        if not self._console.is_terminal:
            result = f"failed: {printable(row.error)}" if row.error else f"score {row.value('strict'):.2f}"
            if row.failed_calls and not row.error:
                result += f", {row.failed_calls:,} sub-calls failed"
            sys.stderr.write(
                f"{row.task} {format_length(row.length)} #{row.index} {row.method}: {result}, {row.seconds:.2f} s\n"
            )

    def _group(self, key: JobKey) -> _Group:
        return self._groups.setdefault((key.task, key.length_bucket, key.method), _Group())

    def _add(self, row: ResultRow) -> None:
        group = self._group(row.key)
        group.done += 1
        group.failed += bool(row.error)
        group.score += row.value("strict")
        group.cost = None if group.cost is None or row.cost_usd is None else group.cost + row.cost_usd

    def render(self) -> Table:
        """The current table."""
        table = Table(
            "task", "length", "method", "done", "running", "failed", "score", "cost", box=None, padding=(0, 1)
        )
        groups = list(self._groups.items())
        max_rows = max(5, self._console.height - 4)
        for (task, length, method), group in sorted(groups, key=lambda item: -item[1].running)[:max_rows]:
            score = f"{group.score / group.done:.2f}" if group.done else ""
            cost = dollars(group.cost)
            done, running, failed = f"{group.done} of {group.total}", str(group.running or ""), str(group.failed or "")
            table.add_row(task, format_length(length), method, done, running, failed, score, cost)
        if len(groups) > max_rows:
            table.add_row(f"and {len(groups) - max_rows} more")
        return table

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._open.enter_context(deferred_logs())
            self._open.enter_context(self._live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
