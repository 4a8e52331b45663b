"""Pictures of an evaluation: score by length with intervals, and a heat map of all. Needs matplotlib (`rlm[eval]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report import grouped, length_name, value
from .results import Row
from .stats import interval

CURVES = "score-by-length.png"
MAP = "score-map.png"
WIDTH = 7.2  # inches: a page's text


def draw(rows: Sequence[Row], folder: Path) -> list[str]:
    """Draw both; the names of the files. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    _curves(Figure, rows, folder / CURVES)
    _map(Figure, rows, folder / MAP)
    return [CURVES, MAP]


def _curves(figure_type: Any, rows: Sequence[Row], file: Path) -> None:
    """A small plot for each task; methods differ in mark and dash, so that they can be told apart in print."""
    groups = grouped(rows)
    tasks = list(dict.fromkeys(row.task for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    across = min(3, len(tasks))
    down = -(-len(tasks) // across)
    figure = figure_type(figsize=(WIDTH, 0.7 + 2.1 * down), layout="constrained", dpi=200)
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for place, task in enumerate(tasks):
        plot = axes[place // across][place % across]
        lengths = sorted({length for name, _, length in groups if name == task})
        for number, way in enumerate(methods):
            found = [
                (at, interval([value(row, "strict") for row in group]))
                for at, length in enumerate(lengths)
                if (group := groups.get((task, way, length)))
            ]
            if not found:
                continue
            # A little beside each other, so that equal scores do not hide each other.
            xs = [at + (number - (len(methods) - 1) / 2) * 0.06 for at, _ in found]
            means = [each.mean for _, each in found]
            errors = [[each.mean - each.low for _, each in found], [each.high - each.mean for _, each in found]]
            plot.errorbar(
                xs,
                means,
                yerr=errors,
                label=way,
                marker="osD^vPX*"[number % 8],
                linestyle=("-", "--", ":", "-.")[number % 4],
                markersize=4,
                linewidth=1.2,
                capsize=2,
            )
        plot.set_title(task, fontsize=8)
        plot.set_xticks(range(len(lengths)), [length_name(length) for length in lengths], fontsize=7)
        plot.set_ylim(-0.04, 1.04)
        plot.tick_params(axis="y", labelsize=7)
        plot.grid(axis="y", linewidth=0.3)
    for place in range(len(tasks), across * down):
        axes[place // across][place % across].set_visible(False)
    figure.supxlabel("length in tokens", fontsize=8)
    figure.supylabel("strict score, 95 % interval", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(6, len(labels)), fontsize=8, frameon=False)
    figure.savefig(file, metadata={"Software": None})


def _map(figure_type: Any, rows: Sequence[Row], file: Path) -> None:
    """Every task and method against length, with the number in each field."""
    groups = grouped(rows)
    lengths = sorted({length for _, _, length in groups})
    lines = list(dict.fromkeys((task, way) for task, way, _ in groups))
    figure = figure_type(figsize=(WIDTH, 0.8 + 0.28 * len(lines)), layout="constrained", dpi=200)
    plot = figure.subplots()
    none = float("nan")
    scores = [
        [
            sum(value(row, "strict") for row in group) / len(group) if (group := groups.get((*line, length))) else none
            for length in lengths
        ]
        for line in lines
    ]
    plot.imshow(scores, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for y, line in enumerate(scores):
        for x, score in enumerate(line):
            if score == score:  # there is one
                plot.text(
                    x,
                    y,
                    f"{score:.2f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if score > 0.6 else "black",
                )
    plot.set_xticks(range(len(lengths)), [length_name(length) for length in lengths], fontsize=7)
    plot.set_yticks(range(len(lines)), [f"{task}  {way}" for task, way in lines], fontsize=7)
    plot.set_title("strict score by length in tokens", fontsize=8)
    figure.savefig(file, metadata={"Software": None})
