"""What evaluations cost beside the runs themselves: generation, the harness, memory. Prints the table of docs/evals.md."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio
import anyio.to_thread

from rlm.evals.harness import run_jobs
from rlm.evals.machine import Cap
from rlm.evals.methods import Means
from rlm.evals.plan import Plan
from rlm.evals.policies import ruler_model
from rlm.evals.registry import tasks
from rlm.evals.results import Results

LONG = 1 << 20
TURN_SECONDS = 5.0  # of a model that takes as long as real ones


def generation() -> tuple[str, float]:
    """The slowest task, and its seconds for an instance of 2^20 tokens."""
    worst = ("", 0.0)
    for name, task in tasks().items():
        task.make(length=4096, seed=1, index=0)  # what is made once
        began = time.perf_counter()
        task.make(length=LONG, seed=1, index=0)
        worst = max(worst, (name, time.perf_counter() - began), key=lambda found: found[1])
    return worst


def harness_share() -> float:
    """Of the time that an instance takes, the part that is not its run: median of six."""
    model = ruler_model(latency=TURN_SECONDS)
    plan = Plan(tasks=("ruler/multikey_1",), lengths=(1 << 17,), n=3)
    with tempfile.TemporaryDirectory() as folder:
        results = Results.create(Path(folder), plan.as_json())
        shares, began = [], 0.0

        def start(key: object) -> None:
            nonlocal began
            began = time.perf_counter()

        async def work() -> None:
            await run_jobs(
                plan.jobs(),
                means=Means(models=lambda task: (model, model)),
                results=results,
                cap=Cap(1, Path(folder) / "places"),
                on_start=start,
                on_row=lambda row: shares.append((time.perf_counter() - began - row.seconds) / row.seconds),
            )

        anyio.run(work)
    return statistics.median(shares)


def memory() -> float:
    """Peak MB of a process that has 16 instances of 2^20 tokens in work at once, in containers."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import measure_evals; measure_evals.sixteen()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def sixteen() -> None:
    """Run them, and print the peak."""
    model = ruler_model(latency=1.0)
    plan = Plan(tasks=("ruler/multikey_1", "ruler/multiquery"), lengths=(LONG,), n=8)
    with tempfile.TemporaryDirectory() as folder:
        results = Results.create(Path(folder), plan.as_json())
        means = Means(models=lambda task: (model, model))
        cap = Cap(16, Path(folder) / "places")

        async def work() -> None:
            rows = await run_jobs(plan.jobs(), means=means, results=results, cap=cap)
            assert all(row.strict == 1 for row in rows), [row.error for row in rows]

        anyio.run(work)
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    slowest, seconds = generation()
    rows = [
        ("the slowest instance of 2^20 tokens is made in", f"{seconds:.2f} s ({slowest})", "2 s"),
        ("the harness beside a run of 10 s over 2^17 tokens", f"{harness_share():.2%}", "1 %"),
        ("peak memory with 16 instances of 2^20 tokens at once", f"{memory():,.0f} MB", "1,500 MB"),
    ]
    print("| | measured | goal |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
