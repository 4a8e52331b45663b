"""How far an evaluation is, on standard error: a table on a terminal, else a line for each instance."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rlm._util.text import printable

from .plan import length_name
from .results import Job, Key, Row

FRAMES: Final = 4  # a second


@dataclass(slots=True)
class _Group:
    """Of one task, length and method."""

    total: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    score: float = 0.0
    cost: float | None = 0.0


class Progress:
    """Shows rows as they come; a context manager.

    Args:
        jobs: all there are.
        before: rows of an earlier process that stand.
    """

    def __init__(self, jobs: Sequence[Job], before: Iterable[Row], *, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._groups: dict[tuple[str, int, str], _Group] = {}
        for job in jobs:
            self._group(job.key).total += 1
        for row in before:
            self._add(row)
        self._live = Live(self._table(), console=self._console, refresh_per_second=FRAMES, get_renderable=self._table)

    def start(self, key: Key) -> None:
        """An instance is in work."""
        self._group(key).running += 1

    def row(self, row: Row) -> None:
        """An instance is done."""
        self._group(row.key).running -= 1
        self._add(row)
        if not self._console.is_terminal:
            came_to = f"failed: {printable(row.error)}" if row.error else f"{row.value('strict'):.2f}"
            if row.failed_calls and not row.error:
                came_to += f" without the replies of {row.failed_calls:,} calls that failed"
            sys.stderr.write(
                f"{row.task} {length_name(row.length)} #{row.index} {row.method}: {came_to}, {row.seconds:.2f} s\n"
            )

    def _group(self, key: Key) -> _Group:
        return self._groups.setdefault((key.task, key.bucket, key.method), _Group())

    def _add(self, row: Row) -> None:
        group = self._group(row.key)
        group.done += 1
        group.failed += bool(row.error)
        group.score += row.value("strict")
        group.cost = None if group.cost is None or row.cost_usd is None else group.cost + row.cost_usd

    def _table(self) -> Table:
        shown = Table(
            "task", "length", "method", "done", "running", "failed", "score", "cost", box=None, padding=(0, 1)
        )
        groups = list(self._groups.items())
        most = max(5, self._console.height - 4)
        for (task, length, way), group in sorted(groups, key=lambda item: -item[1].running)[:most]:
            score = f"{group.score / group.done:.2f}" if group.done else ""
            cost = "unknown" if group.cost is None else f"${group.cost:.4g}"
            done, running, failed = f"{group.done} of {group.total}", str(group.running or ""), str(group.failed or "")
            shown.add_row(task, length_name(length), way, done, running, failed, score, cost)
        if len(groups) > most:
            shown.add_row(f"and {len(groups) - most} more")
        return shown

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
