"""Plots of an evaluation: score by length with intervals, and a heat map. Needs matplotlib (`rlm[eval]`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlm.evals.plan import format_length
from rlm.evals.results import ResultRow

from .report import group_rows
from .stats import interval

CURVES_FILE = "score-by-length.png"
MAP_FILE = "score-map.png"
WIDTH_INCHES = 7.2  # the text width of a page
MAX_COLUMNS = 3  # plots per row
METHOD_SPREAD = 0.7  # share of the distance between two lengths over which methods spread, so that none hides another


def draw(rows: Sequence[ResultRow], folder: Path) -> list[str]:
    """Draw both plots; returns their file names."""
    _curves(rows, folder / CURVES_FILE)
    _map(rows, folder / MAP_FILE)
    return [CURVES_FILE, MAP_FILE]


def _curves(rows: Sequence[ResultRow], file: Path) -> None:
    """A small plot for each task. Methods differ in marker and dash, so that print shows them apart."""
    groups, methods = group_rows(rows), _methods(rows)
    figure, plots = _plots(rows, height=2.0, header=0.7)
    step = METHOD_SPREAD / max(5, len(methods))
    for task, plot in plots:
        lengths = _lengths(rows, task)
        for number, method in enumerate(methods):
            points = [
                (at, interval([row.value("strict") for row in group]))
                for at, length in enumerate(lengths)
                if (group := groups.get((task, method, length)))
            ]
            if not points:
                continue
            xs = [at + (number - (len(methods) - 1) / 2) * step for at, _ in points]
            plot.plot(
                xs,
                [each.mean for _, each in points],
                label=method,
                color=f"C{number}",
                marker="osD^vPX*"[number % 8],
                linestyle=("-", "--", ":", "-.")[number % 4],
                markersize=3,
                linewidth=0.9,
            )
            plot.vlines(
                xs,
                [each.low for _, each in points],
                [each.high for _, each in points],
                color=f"C{number}",
                linewidth=0.8,
                alpha=0.5,
            )
        plot.set_xticks(range(len(lengths)), [format_length(length) for length in lengths], fontsize=6)
        plot.set_xlim(-0.5, len(lengths) - 0.5)
        for at in range(1, len(lengths)):
            plot.axvline(at - 0.5, color="0.85", linewidth=0.4)
        plot.set_ylim(-0.04, 1.04)
        plot.tick_params(axis="y", labelsize=6)
        plot.grid(axis="y", linewidth=0.3)
    figure.supxlabel("length in tokens", fontsize=8)
    figure.supylabel("strict score, 95 % interval", fontsize=8)
    legend = {
        label: handle for _, plot in plots for handle, label in zip(*plot.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        legend.values(), legend.keys(), loc="outside upper center", ncols=min(7, len(legend)), fontsize=7, frameon=False
    )
    figure.savefig(file, metadata={"Software": None})


def _map(rows: Sequence[ResultRow], file: Path) -> None:
    """For each task, methods against lengths, with the score in each cell."""
    groups, methods = group_rows(rows), _methods(rows)
    figure, plots = _plots(rows, height=0.5 + 0.17 * len(methods), header=0.4)
    for task, plot in plots:
        lengths = _lengths(rows, task)
        scores = [[_mean(groups.get((task, method, length), ())) for length in lengths] for method in methods]
        plot.imshow(scores, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for y, line in enumerate(scores):
            for x, score in enumerate(line):
                if not math.isnan(score):
                    color = "white" if score > 0.6 else "black"
                    plot.text(x, y, f"{score:.2f}", ha="center", va="center", fontsize=5.5, color=color)
        plot.set_xticks(range(len(lengths)), [format_length(length) for length in lengths], fontsize=6)
        plot.set_yticks(range(len(methods)), methods, fontsize=6)
    figure.suptitle("strict score by length in tokens", fontsize=8)
    figure.savefig(file, metadata={"Software": None})


def _plots(rows: Sequence[ResultRow], *, height: float, header: float) -> tuple[Figure, list[tuple[str, Axes]]]:
    """A figure with a plot for each task, sharing the y axis. `height` of a plot and `header` are in inches."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    columns = min(MAX_COLUMNS, len(tasks))
    rows_of_plots = -(-len(tasks) // columns)
    figure = Figure(figsize=(WIDTH_INCHES, header + height * rows_of_plots), layout="constrained", dpi=200)
    axes = list(figure.subplots(rows_of_plots, columns, squeeze=False, sharey=True).flat)
    for plot in axes[len(tasks) :]:
        plot.set_visible(False)
    plots = list(zip(tasks, axes, strict=False))
    for task, plot in plots:
        plot.set_title(task, fontsize=7)
    return figure, plots


def _methods(rows: Sequence[ResultRow]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _lengths(rows: Sequence[ResultRow], task: str) -> list[int]:
    return sorted({row.key.length_bucket for row in rows if row.task == task})


def _mean(rows: Sequence[ResultRow]) -> float:
    return sum(row.value("strict") for row in rows) / len(rows) if rows else float("nan")
