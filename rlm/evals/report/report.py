"""`report.md` of an evaluation, from its rows and settings alone: the same rows give the same bytes."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, zip_longest
from typing import Final, Literal

from rlm.evals.plan import Plan, length_name
from rlm.evals.results import Results, Row, in_order

from .stats import MIN_DISTINCT, Comparison, compare, holm, interval, percentile
from .tables import escaped, table

WITHOUT: Final = (
    "Providers gave no reply to calls of these answers, whose scores count as they are. To do them again from the start: "
    "`rlm eval --resume DIR --redo-failed-calls`."
)
PAIRED: Final = (
    "task", "first", "second", "pairs", "first minus second, strict", "p", "p, adjusted", "test", "they differ",
)  # fmt: skip
SPENT: Final = (
    "task", "method", "length", "cost", "cost p50", "cost p95", "s p50", "s p95", "tokens", "calls", "sub-calls", "depth",
    "calls failed", "stopped by a limit",
)  # fmt: skip
TELLS_AT: Final = 0.05  # the adjusted p-value below which a difference is said to be one
LIMITS: Final = frozenset(  # stop reasons of runs that had no time or means to end, and of a plain reply that was cut
    ("max_iterations", "max_lm_calls", "max_tokens", "max_cost_usd", "max_seconds", "max_consecutive_errors", "length")
)
_NUMBER: Final = re.compile(r"\d+(?:,\d+)*")


def ordered(results: Results) -> list[Row]:
    """The rows in the order of the plan."""
    plan = Plan.of(results.settings)
    return in_order(results.rows.values(), tasks=plan.tasks, methods=plan.methods)


def markdown(results: Results, *, plots: Sequence[str] = ()) -> str:
    """The text of the report; `plots` are names of pictures in the same folder."""
    plan, rows = Plan.of(results.settings), ordered(results)
    failed = [row for row in rows if row.error]
    without = [row for row in rows if row.failed_calls and not row.error]
    parts = [
        plan.measures,
        "# Evaluation",
        f"Instances: {len({(row.task, row.length, row.seed, row.index) for row in rows}):,}. "
        f"Methods: {len({row.method for row in rows})}. Answers: {len(rows):,}. Failures: {len(failed):,}. "
        "Scores are from 0 to 1 with 95 % intervals (bootstrap; Wilson's for scores of 0 and 1, and where fewer than "
        f"{MIN_DISTINCT} are apart from the commonest one); a failure counts as 0."
        + (f" {len(without):,} of the answers lack the replies of calls that failed: see below." if without else ""),
        *(f"![{name.removesuffix('.png').replace('-', ' ').capitalize()}]({name})" for name in plots),
    ]
    parts += ["## Score, strict", *_scores(rows, "strict"), "## Score, lax", *_scores(rows, "lax")]
    parts += ["## Cost and time", _spent(rows, results.replaced), _costs(rows)]
    if pairs := list(_paired(rows)):
        parts += [
            "## Methods compared on the same instances",
            f"Two methods differ where p, adjusted for the {len(pairs)} comparisons here (Holm), is below {TELLS_AT}. "
            f"No interval is shown where fewer than {MIN_DISTINCT} pairs differ: "
            "it would be misleadingly narrow.",
            table(PAIRED, pairs),
        ]
    if notes := _notes(rows):
        parts += ["## Notes", "\n".join(notes)]
    if without:
        parts += ["## Calls that failed", WITHOUT, "\n".join(_failure(row) for row in without)]
    if failed:
        parts += ["## Failures", "\n".join(_failure(row) for row in failed)]
    parts += ["## Made with", table(("setting", "value"), [(name, str(value)) for name, value in _settings(results)])]
    return "\n\n".join(parts) + "\n"


def grouped(rows: Iterable[Row]) -> Mapping[tuple[str, str, int], list[Row]]:
    """By task, method and length."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.method, row.key.bucket), []).append(row)
    return groups


def _scores(rows: Sequence[Row], score: Literal["strict", "lax"]) -> Iterator[str]:
    groups = grouped(rows)
    for task in dict.fromkeys(row.task for row in rows):
        lengths = sorted({length for name, _, length in groups if name == task})
        ways = list(dict.fromkeys(way for name, way, _ in groups if name == task))
        lines = [(way, *(_mean(groups.get((task, way, length), []), score) for length in lengths)) for way in ways]
        yield f"**{task}**"
        yield table(("method", *map(length_name, lengths)), lines)


def _mean(rows: Sequence[Row], score: Literal["strict", "lax"]) -> str:
    if not rows:
        return ""
    found = interval([row.value(score) for row in rows])
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}] n={len(rows)}"


def _spent(rows: Sequence[Row], replaced: Sequence[Row]) -> str:
    """What all of it cost, and which times are not counted."""
    resumed = sum(row.resumed for row in rows)
    known = [row.cost_usd for row in (*rows, *replaced) if row.cost_usd is not None]
    parts = [f"${math.fsum(known):.4g} in all."]
    for what, paid in (("answers", rows), ("attempts that were done again", replaced)):
        if unknown := sum(row.cost_usd is None for row in paid):
            parts.append(f"The cost of {unknown:,} of {len(paid):,} {what} is unknown, and not in it.")
    if resumed:
        parts.append(f"Times leave out {resumed:,} of the answers, whose runs were cut off and went on later.")
    return " ".join(parts)


def _costs(rows: Sequence[Row]) -> str:
    lines = []
    for (task, way, length), group in grouped(rows).items():
        costs = [row.cost_usd for row in group]
        seconds = [row.seconds for row in group if not row.resumed]
        limited = sum(row.stop_reason in LIMITS for row in group)
        lines.append(
            (
                task,
                way,
                length_name(length),
                _of_known(costs, statistics.fmean, "${:.4g}"),
                _of_known(costs, _p50, "${:.4g}"),
                _of_known(costs, _p95, "${:.4g}"),
                _of_known(seconds, _p50, "{:.2f}"),
                _of_known(seconds, _p95, "{:.2f}"),
                _of_known([row.tokens for row in group], statistics.fmean, "{:,.0f}"),
                _of_known([row.calls for row in group], statistics.fmean, "{:.1f}"),
                f"{statistics.fmean(row.sub_calls for row in group):.1f}",
                str(max(row.depth for row in group)),
                f"{sum(row.failed_calls for row in group):,}",
                f"{limited} of {len(group)}",
            )
        )
    return table(SPENT, lines)


def _of_known(values: Sequence[float | None], sum_up: Callable[[list[float]], float], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(sum_up(known)) if known else "unknown"


_p50 = partial(percentile, share=0.5)
_p95 = partial(percentile, share=0.95)


def _notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the scores should know. Notes that differ in their numbers alone are one, with the range of each."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[list[str]]] = {}
    for row in rows:
        said = [row.note] if row.note else []
        if row.stop_reason in LIMITS:
            said.append(f"stopped by a limit ({row.stop_reason})")
        for text in said:
            groups.setdefault((row.method, row.task, tuple(_NUMBER.split(text))), []).append(_NUMBER.findall(text))
    of_all = Counter((row.method, row.task) for row in rows)
    lines = []
    for (way, task, texts), found in groups.items():
        ranges = [_range(numbers) for numbers in zip(*found, strict=True)]
        text = "".join(part for pair in zip_longest(texts, ranges, fillvalue="") for part in pair)
        lines.append(f"- {way} on {task}, {len(found)} of {of_all[way, task]}: {escaped(text)}")
    return sorted(lines)


def _range(numbers: Sequence[str]) -> str:
    low, *_, high = sorted([*numbers, *numbers], key=lambda number: int(number.replace(",", "")))
    return low if low == high else f"{low} to {high}"


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
            of_difference(comparison),
            f"{comparison.p_value:.2g}",
            f"{p_value:.2g}",
            comparison.test,
            "yes" if p_value < TELLS_AT else "the data cannot tell",
        )


def _by_instance(rows: Sequence[Row], task: str, way: str) -> dict[object, float]:
    chosen = (row for row in rows if row.task == task and row.method == way)
    return {(row.length, row.seed, row.index): row.value("strict") for row in chosen}


def of_difference(found: Comparison) -> str:
    """A difference with its interval."""
    if found.interval is None:
        return f"{found.difference:+.3f} [no interval: too few pairs apart]"
    return f"{found.difference:+.3f} [{found.interval.low:+.3f}, {found.interval.high:+.3f}]"


def _failure(row: Row) -> str:
    what = (
        row.error or f"{row.failed_calls:,} of {row.sub_calls:,} calls below the root, score {row.value('strict'):.2f}"
    )
    return f"- {row.method} on {row.task}, {length_name(row.length)}, instance {row.index}: {escaped(what)}"


def _settings(results: Results) -> Iterator[tuple[str, object]]:
    for name, given in results.settings.items():
        if given not in (None, [], ()):
            yield name, ", ".join(map(str, given)) if isinstance(given, list | tuple) else given
