"""`report.md` of an evaluation, from its rows and settings alone: the same rows give the same bytes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

from rlm.console import printable

from .plan import Plan
from .results import Results, Row, in_order
from .stats import Comparison, Interval, compare, holm, interval, percentile

SYSTEM_ONLY: Final = (
    "This run used the scripted model: it measures the system (containers, channel, loop), not intelligence."
)
NO_PLOTS: Final = "Plots: `pip install 'rlm[eval]'`, then `rlm eval report DIR`."
PAIRED: Final = (
    "task", "first", "second", "pairs", "first minus second, strict", "p", "p, adjusted", "test", "they differ",
)  # fmt: skip
TELLS_AT: Final = 0.05  # the p-value below which a difference is said to be one


def ordered(results: Results) -> list[Row]:
    """The rows in the order of the plan."""
    plan = Plan.of(results.settings)
    return in_order(results.rows.values(), tasks=plan.tasks, methods=plan.methods)


def markdown(results: Results, *, plots: Sequence[str] = ()) -> str:
    """The text of the report; `plots` are names of pictures in the same folder, None of which there need to be."""
    plan, rows = Plan.of(results.settings), ordered(results)
    failed = [row for row in rows if row.error]
    parts = [
        SYSTEM_ONLY if plan.scripted else "This run used real models.",
        "# Evaluation",
        f"{len({(row.task, row.length, row.seed, row.index) for row in rows}):,} instances, "
        f"{len({row.method for row in rows})} methods, {len(rows):,} answers, {len(failed):,} failures. "
        "Scores are from 0 to 1 with 95 % intervals (Wilson's for scores of 0 and 1, else bootstrap); a failure counts as "
        "0.",
        *([f"![Scores by length]({name})" for name in plots] or [NO_PLOTS]),
    ]
    for score in ("strict", "lax"):
        parts += [f"## Score, {score}", *_scores(rows, score)]
    parts += ["## Cost and time", _costs(rows)]
    if pairs := list(_paired(rows)):
        parts += [
            "## Methods compared on the same instances",
            f"Two methods differ where p, adjusted for the {len(pairs)} comparisons here (Holm), is below {TELLS_AT}.",
            _table(PAIRED, pairs),
        ]
    if notes := sorted({(row.method, row.task, row.note) for row in rows if row.note}):
        parts += ["## Notes", "\n".join(f"- {way} on {task}: {escaped(note)}" for way, task, note in notes)]
    if failed:
        parts += ["## Failures", "\n".join(_failure(row) for row in failed)]
    parts += ["## Made with", _table(("setting", "value"), [(name, str(value)) for name, value in _settings(results)])]
    return "\n\n".join(parts) + "\n"


def grouped(rows: Iterable[Row]) -> Mapping[tuple[str, str, int], list[Row]]:
    """By task, method and length."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.method, row.bucket), []).append(row)
    return groups


def value(row: Row, score: str) -> float:
    """A row's score; that of a failure is 0."""
    found: float | None = getattr(row, score)
    return found or 0.0


def length_name(length: int) -> str:
    """8192 is 8k."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if length >= size and length % size == 0:
            return f"{length // size}{unit}"
    return f"{length:,}"


def _scores(rows: Sequence[Row], score: str) -> Iterator[str]:
    groups = grouped(rows)
    for task in dict.fromkeys(row.task for row in rows):
        lengths = sorted({length for name, _, length in groups if name == task})
        ways = list(dict.fromkeys(way for name, way, _ in groups if name == task))
        lines = [(way, *(_mean(groups.get((task, way, length), []), score) for length in lengths)) for way in ways]
        yield f"**{task}**"
        yield _table(("method", *map(length_name, lengths)), lines)


def _mean(rows: Sequence[Row], score: str) -> str:
    if not rows:
        return ""
    found = interval([value(row, score) for row in rows])
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}] n={len(rows)}"


def _costs(rows: Sequence[Row]) -> str:
    lines = []
    for (task, way, length), group in grouped(rows).items():
        costs = [row.cost_usd for row in group]
        known = [cost for cost in costs if cost is not None]
        seconds = [row.seconds for row in group]
        lines.append(
            (
                task,
                way,
                length_name(length),
                f"${statistics.fmean(known):.4g}" if len(known) == len(costs) else "unknown",
                f"{percentile(seconds, 0.5):.2f}",
                f"{percentile(seconds, 0.95):.2f}",
                f"{statistics.fmean(row.input_tokens + row.output_tokens for row in group):,.0f}",
                f"{statistics.fmean(row.calls for row in group):.1f}",
                f"{statistics.fmean(row.sub_calls for row in group):.1f}",
                str(max(row.depth for row in group)),
            )
        )
    headings = ("task", "method", "length", "cost", "s p50", "s p95", "tokens", "calls", "sub-calls", "depth")
    return _table(headings, lines)


def _paired(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    found: list[tuple[str, str, str, Comparison]] = []
    for task in dict.fromkeys(row.task for row in rows):
        ways = list(dict.fromkeys(row.method for row in rows if row.task == task))
        for first, second in combinations(ways, 2):
            scores, others = _by_instance(rows, task, first), _by_instance(rows, task, second)
            if scores.keys() & others.keys():  # an evaluation that was stopped may have none
                found.append((task, first, second, compare(scores, others)))
    adjusted = holm([comparison.p_value for *_, comparison in found])
    for (task, first, second, comparison), p_value in zip(found, adjusted, strict=True):
        yield (
            task,
            first,
            second,
            str(comparison.count),
            of_interval(comparison.difference),
            f"{comparison.p_value:.2g}",
            f"{p_value:.2g}",
            comparison.test,
            "yes" if p_value < TELLS_AT else "the data cannot tell",
        )


def _by_instance(rows: Sequence[Row], task: str, way: str) -> dict[object, float]:
    chosen = (row for row in rows if row.task == task and row.method == way)
    return {(row.length, row.seed, row.index): value(row, "strict") for row in chosen}


def of_interval(found: Interval) -> str:
    """A difference with its interval."""
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def tells(found: Comparison) -> bool:
    """Whether the data say that there is a difference."""
    return found.p_value < TELLS_AT


def _failure(row: Row) -> str:
    return f"- {row.method} on {row.task}, {length_name(row.length)}, instance {row.index}: {escaped(row.error)}"


def _settings(results: Results) -> Iterator[tuple[str, object]]:
    for name, given in results.settings.items():
        if given not in (None, [], ()):
            yield name, ", ".join(map(str, given)) if isinstance(given, list | tuple) else given


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows)


def escaped(text: str) -> str:
    """A text as it may stand in a cell of a table."""
    plain = printable(text).replace("\n", " ")
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
