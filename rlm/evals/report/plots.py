"""Pictures of an evaluation: score by length with intervals, and a heat map of all. Needs matplotlib (`rlm[eval]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlm.evals.plan import length_name
from rlm.evals.results import Row

from .report import grouped
from .stats import interval

CURVES = "score-by-length.png"
MAP = "score-map.png"
WIDTH = 7.2  # inches: a page's text
ACROSS = 3  # plots beside each other
SPREAD = 0.7  # of the way to the next length: there the methods stand beside each other, so that none hides another


def draw(rows: Sequence[Row], folder: Path) -> list[str]:
    """Draw both; the names of the files."""
    _curves(rows, folder / CURVES)
    _map(rows, folder / MAP)
    return [CURVES, MAP]


def _curves(rows: Sequence[Row], file: Path) -> None:
    """A small plot for each task; methods differ in mark and dash, so that they can be told apart in print."""
    groups, methods = grouped(rows), _methods(rows)
    figure, plots = _plots(rows, height=2.0, above=0.7)
    apart = SPREAD / max(5, len(methods))
    for task, plot in plots:
        lengths = _lengths(rows, task)
        for number, way in enumerate(methods):
            found = [
                (at, interval([row.value("strict") for row in group]))
                for at, length in enumerate(lengths)
                if (group := groups.get((task, way, length)))
            ]
            if not found:
                continue
            xs = [at + (number - (len(methods) - 1) / 2) * apart for at, _ in found]
            plot.plot(
                xs,
                [each.mean for _, each in found],
                label=way,
                color=f"C{number}",
                marker="osD^vPX*"[number % 8],
                linestyle=("-", "--", ":", "-.")[number % 4],
                markersize=3,
                linewidth=0.9,
            )
            plot.vlines(
                xs,
                [each.low for _, each in found],
                [each.high for _, each in found],
                color=f"C{number}",
                linewidth=0.8,
                alpha=0.5,
            )
        plot.set_xticks(range(len(lengths)), [length_name(length) for length in lengths], fontsize=6)
        plot.set_xlim(-0.5, len(lengths) - 0.5)
        for at in range(1, len(lengths)):
            plot.axvline(at - 0.5, color="0.85", linewidth=0.4)
        plot.set_ylim(-0.04, 1.04)
        plot.tick_params(axis="y", labelsize=6)
        plot.grid(axis="y", linewidth=0.3)
    figure.supxlabel("length in tokens", fontsize=8)
    figure.supylabel("strict score, 95 % interval", fontsize=8)
    named = {
        label: handle for _, plot in plots for handle, label in zip(*plot.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        named.values(), named.keys(), loc="outside upper center", ncols=min(7, len(named)), fontsize=7, frameon=False
    )
    figure.savefig(file, metadata={"Software": None})


def _map(rows: Sequence[Row], file: Path) -> None:
    """Of every task, methods against lengths, with the number in each field."""
    groups, methods = grouped(rows), _methods(rows)
    figure, plots = _plots(rows, height=0.5 + 0.17 * len(methods), above=0.4)
    for task, plot in plots:
        lengths = _lengths(rows, task)
        scores = [[_mean(groups.get((task, way, length), ())) for length in lengths] for way in methods]
        plot.imshow(scores, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for y, line in enumerate(scores):
            for x, score in enumerate(line):
                if score == score:  # there is one
                    color = "white" if score > 0.6 else "black"
                    plot.text(x, y, f"{score:.2f}", ha="center", va="center", fontsize=5.5, color=color)
        plot.set_xticks(range(len(lengths)), [length_name(length) for length in lengths], fontsize=6)
        plot.set_yticks(range(len(methods)), methods, fontsize=6)
    figure.suptitle("strict score by length in tokens", fontsize=8)
    figure.savefig(file, metadata={"Software": None})


def _plots(rows: Sequence[Row], *, height: float, above: float) -> tuple[Figure, list[tuple[str, Axes]]]:
    """A figure with a plot for each task, so many inches high, and room above them; labels of y stand on the left alone."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    across = min(ACROSS, len(tasks))
    down = -(-len(tasks) // across)
    figure = Figure(figsize=(WIDTH, above + height * down), layout="constrained", dpi=200)
    axes = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    for plot in axes[len(tasks) :]:
        plot.set_visible(False)
    plots = list(zip(tasks, axes, strict=False))
    for task, plot in plots:
        plot.set_title(task, fontsize=7)
    return figure, plots


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _lengths(rows: Sequence[Row], task: str) -> list[int]:
    return sorted({row.key.bucket for row in rows if row.task == task})


def _mean(rows: Sequence[Row]) -> float:
    return sum(row.value("strict") for row in rows) / len(rows) if rows else float("nan")
