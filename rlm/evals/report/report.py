"""`report.md` of an evaluation. A pure function of its rows and settings."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, zip_longest
from typing import Final, Literal

from rlm._util.text import dollars
from rlm.evals.plan import Plan, format_length
from rlm.evals.results import ResultRow, Results, sort_rows

from .stats import MIN_DISTINCT, Comparison, compare, holm, interval, percentile
from .tables import escape, settings_table, table

FAILED_CALLS_HINT: Final = (
    "Some sub-calls of these answers got no reply. Their scores count unchanged. To repeat the answers from the start: "
    "`rlm eval --resume DIR --redo-failed-calls`."
)
COMPARISON_HEADINGS: Final = (
    "task", "first", "second", "pairs", "first minus second, strict", "p", "p, adjusted", "test", "significant",
)  # fmt: skip
COST_HEADINGS: Final = (
    "task", "method", "length", "cost", "cost p50", "cost p95", "s p50", "s p95", "tokens", "calls", "sub-calls", "depth",
    "failed calls", "stopped by a limit",
)  # fmt: skip
SIGNIFICANCE_LEVEL: Final = 0.05  # for adjusted p-values
LIMITS: Final = frozenset(  # stop reasons that say that a limit ended the run, or truncated a plain reply
    ("max_iterations", "max_lm_calls", "max_tokens", "max_cost_usd", "max_seconds", "max_consecutive_errors", "length")
)
_NUMBER: Final = re.compile(r"\d+(?:,\d+)*")


def ordered_rows(results: Results) -> list[ResultRow]:
    """The rows in the order of the plan."""
    plan = Plan.from_settings(results.settings)
    return sort_rows(results.rows.values(), tasks=plan.tasks, methods=plan.methods)


def markdown(results: Results, *, plots: Sequence[str] = ()) -> str:
    """The text of the report. `plots` are file names of pictures in the same folder."""
    plan, rows = Plan.from_settings(results.settings), ordered_rows(results)
    failed = [row for row in rows if row.error]
    with_failed_calls = [row for row in rows if row.failed_calls and not row.error]
    parts = [
        plan.model_note,
        "# Evaluation",
        f"Instances: {len({(row.task, row.length, row.seed, row.index) for row in rows}):,}. "
        f"Methods: {len({row.method for row in rows})}. Answers: {len(rows):,}. Failures: {len(failed):,}. "
        "Scores range from 0 to 1 and have 95 % intervals: bootstrap, or Wilson's for scores of 0 and 1 and if fewer than "
        f"{MIN_DISTINCT} scores differ from the most common one. Failures score 0."
        + (f" Answers with failed sub-calls: {len(with_failed_calls):,} (see below)." if with_failed_calls else ""),
        *(f"![{name.removesuffix('.png').replace('-', ' ').capitalize()}]({name})" for name in plots),
    ]
    parts += ["## Score, strict", *_score_tables(rows, "strict"), "## Score, lax", *_score_tables(rows, "lax")]
    parts += ["## Cost and time", _total_cost(rows, results.superseded), _cost_table(rows)]
    if comparisons := list(_comparison_lines(rows)):
        parts += [
            "## Methods compared on the same instances",
            f"A difference is significant if p, adjusted for the {len(comparisons)} comparisons here (Holm), is below "
            f"{SIGNIFICANCE_LEVEL}. No interval is shown when fewer than {MIN_DISTINCT} pairs differ: it would be "
            "misleadingly narrow.",
            table(COMPARISON_HEADINGS, comparisons),
        ]
    if notes := _notes(rows):
        parts += ["## Notes", "\n".join(notes)]
    if with_failed_calls:
        parts += ["## Failed calls", FAILED_CALLS_HINT, "\n".join(_failure(row) for row in with_failed_calls)]
    if failed:
        parts += ["## Failures", "\n".join(_failure(row) for row in failed)]
    parts += ["## Settings", settings_table(results.settings)]
    return "\n\n".join(parts) + "\n"


def group_rows(rows: Iterable[ResultRow]) -> Mapping[tuple[str, str, int], list[ResultRow]]:
    """Rows by task, method and length."""
    groups: dict[tuple[str, str, int], list[ResultRow]] = {}
    for row in rows:
        groups.setdefault((row.task, row.method, row.key.length_bucket), []).append(row)
    return groups


def _score_tables(rows: Sequence[ResultRow], score: Literal["strict", "lax"]) -> Iterator[str]:
    groups = group_rows(rows)
    for task in dict.fromkeys(row.task for row in rows):
        lengths = sorted({length for name, _, length in groups if name == task})
        methods = list(dict.fromkeys(method for name, method, _ in groups if name == task))
        lines = [
            (method, *(_format_mean(groups.get((task, method, length), []), score) for length in lengths))
            for method in methods
        ]
        yield f"**{task}**"
        yield table(("method", *map(format_length, lengths)), lines)


def _format_mean(rows: Sequence[ResultRow], score: Literal["strict", "lax"]) -> str:
    if not rows:
        return ""
    mean = interval([row.value(score) for row in rows])
    return f"{mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}] n={len(rows)}"


def _total_cost(rows: Sequence[ResultRow], superseded: Sequence[ResultRow]) -> str:
    known = [row.cost_usd for row in (*rows, *superseded) if row.cost_usd is not None]
    parts = [f"Total: {dollars(math.fsum(known))}."]
    for what, paid in (("answers", rows), ("repeated attempts", superseded)):
        if unknown := sum(row.cost_usd is None for row in paid):
            parts.append(f"It excludes {unknown:,} of {len(paid):,} {what}, whose cost is unknown.")
    if resumed := sum(row.resumed for row in rows):
        parts.append(f"Times exclude resumed runs ({resumed:,}).")
    return " ".join(parts)


def _cost_table(rows: Sequence[ResultRow]) -> str:
    lines = []
    for (task, method, length), group in group_rows(rows).items():
        costs = [row.cost_usd for row in group]
        seconds = [row.seconds for row in group if not row.resumed]
        limited = sum(row.stop_reason in LIMITS for row in group)
        lines.append(
            (
                task,
                method,
                format_length(length),
                _aggregate(costs, statistics.fmean, "${:.4g}"),
                _aggregate(costs, _p50, "${:.4g}"),
                _aggregate(costs, _p95, "${:.4g}"),
                _aggregate(seconds, _p50, "{:.2f}"),
                _aggregate(seconds, _p95, "{:.2f}"),
                _aggregate([row.tokens for row in group], statistics.fmean, "{:,.0f}"),
                _aggregate([row.calls for row in group], statistics.fmean, "{:.1f}"),
                f"{statistics.fmean(row.sub_calls for row in group):.1f}",
                str(max(row.depth for row in group)),
                f"{sum(row.failed_calls for row in group):,}",
                f"{limited} of {len(group)}",
            )
        )
    return table(COST_HEADINGS, lines)


def _aggregate(values: Sequence[float | None], function: Callable[[list[float]], float], template: str) -> str:
    """A function of the known values, formatted; `unknown` if no value is known."""
    known = [value for value in values if value is not None]
    return template.format(function(known)) if known else "unknown"


_p50 = partial(percentile, share=0.5)
_p95 = partial(percentile, share=0.95)


def _notes(rows: Sequence[ResultRow]) -> list[str]:
    """Caveats for readers of the scores. Notes that differ only in numbers become one note with ranges."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[list[str]]] = {}
    for row in rows:
        texts = [row.note] if row.note else []
        if row.stop_reason in LIMITS:
            texts.append(f"stopped by a limit ({row.stop_reason})")
        for text in texts:
            groups.setdefault((row.method, row.task, tuple(_NUMBER.split(text))), []).append(_NUMBER.findall(text))
    totals = Counter((row.method, row.task) for row in rows)
    lines = []
    for (method, task, pieces), numbers in groups.items():
        ranges = [_range(column) for column in zip(*numbers, strict=True)]
        text = "".join(part for pair in zip_longest(pieces, ranges, fillvalue="") for part in pair)
        lines.append(f"- {method} on {task}, {len(numbers)} of {totals[method, task]}: {escape(text)}")
    return sorted(lines)


def _range(numbers: Sequence[str]) -> str:
    low, *_, high = sorted([*numbers, *numbers], key=lambda number: int(number.replace(",", "")))
    return low if low == high else f"{low} to {high}"


def _comparison_lines(rows: Sequence[ResultRow]) -> Iterator[tuple[str, ...]]:
    comparisons: list[tuple[str, str, str, Comparison]] = []
    for task in dict.fromkeys(row.task for row in rows):
        methods = list(dict.fromkeys(row.method for row in rows if row.task == task))
        for first, second in combinations(methods, 2):
            scores, other_scores = _scores_by_instance(rows, task, first), _scores_by_instance(rows, task, second)
            if scores.keys() & other_scores.keys():  # a stopped evaluation may have none
                comparisons.append((task, first, second, compare(scores, other_scores)))
    adjusted = holm([comparison.p_value for *_, comparison in comparisons])
    for (task, first, second, comparison), p_value in zip(comparisons, adjusted, strict=True):
        yield (
            task,
            first,
            second,
            str(comparison.count),
            format_difference(comparison),
            f"{comparison.p_value:.2g}",
            f"{p_value:.2g}",
            comparison.test,
            "yes" if p_value < SIGNIFICANCE_LEVEL else "no",
        )


def _scores_by_instance(rows: Sequence[ResultRow], task: str, method: str) -> dict[object, float]:
    chosen = (row for row in rows if row.task == task and row.method == method)
    return {(row.length, row.seed, row.index): row.value("strict") for row in chosen}


def format_difference(comparison: Comparison) -> str:
    """A difference, with its interval if it has one."""
    if comparison.interval is None:
        return f"{comparison.difference:+.3f}"
    return f"{comparison.difference:+.3f} [{comparison.interval.low:+.3f}, {comparison.interval.high:+.3f}]"


def _failure(row: ResultRow) -> str:
    what = row.error or f"{row.failed_calls:,} of {row.sub_calls:,} sub-calls failed, score {row.value('strict'):.2f}"
    return f"- {row.method} on {row.task}, {format_length(row.length)}, instance {row.index}: {escape(what)}"
