"""Prints the tables of docs/evals.md: what evaluations cost beside the runs, and what a labeller's mistakes cost.

Ends with status 1 where a goal is missed. `measure_evals.py tokens` prints the error of the estimate of tokens instead; it
needs tiktoken and its vocabulary.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import anyio
import anyio.to_thread

from rlm.evals.corpus.questions import built_in
from rlm.evals.corpus.tokens import tokens
from rlm.evals.harness import run_jobs
from rlm.evals.methods.base import MethodContext
from rlm.evals.methods.guessing import answer_from_labels
from rlm.evals.plan import Plan
from rlm.evals.registry import load_tasks
from rlm.evals.results import Results
from rlm.evals.scorers import score
from rlm.evals.scripted.oracle import Oracle
from rlm.evals.scripted.policies import ruler_root_model
from rlm.evals.tasks.oolong import QUESTIONS_PER_WINDOW
from rlm.evals.tasks.pairs import CONDITIONS

LONG = 1 << 20
GENERATION_SECONDS, HARNESS_SHARE, MEMORY_MB = 2.0, 0.01, 1500.0  # the goals
WINDOWS = 4
TURN_SECONDS = 5.0  # of a model that takes as long as real ones


def generation() -> tuple[str, float]:
    """The slowest task, and its seconds for an instance of 2^20 tokens."""
    worst = ("", 0.0)
    for name, task in load_tasks().items():
        task.make(length=4096, seed=1, index=0)  # what is made once
        began = time.perf_counter()
        task.make(length=LONG, seed=1, index=0)
        worst = max(worst, (name, time.perf_counter() - began), key=lambda found: found[1])
    return worst


def harness_share() -> float:
    """Of the time that an instance takes, the part that is not its run: median of six."""
    model = ruler_root_model(latency=TURN_SECONDS)
    plan = Plan(tasks=("ruler/multikey_1",), lengths=(1 << 17,), n=3)
    with tempfile.TemporaryDirectory() as folder:
        results = Results.create(Path(folder), plan.to_settings())
        shares, began = [], 0.0

        def start(key: object) -> None:
            nonlocal began
            began = time.perf_counter()

        async def work() -> None:
            await run_jobs(
                plan.jobs(),
                ctx=MethodContext(models=lambda task: (model, model)),
                results=results,
                max_concurrent=1,
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
    model = ruler_root_model(latency=1.0)
    plan = Plan(tasks=("ruler/multikey_1", "ruler/multiquery"), lengths=(LONG,), n=8)
    with tempfile.TemporaryDirectory() as folder:
        results = Results.create(Path(folder), plan.to_settings())
        ctx = MethodContext(models=lambda task: (model, model))

        async def work() -> None:
            rows = await run_jobs(plan.jobs(), ctx=ctx, results=results, max_concurrent=16)
            assert all(row.strict == 1 for row in rows), [row.error for row in rows]

        anyio.run(work)
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def calibrated(name: str, length: int, questions: int, accuracy: float) -> list[float]:
    """The mean strict score on each window of a program that makes no error, with labels that are right so often."""
    labelled = Oracle(questions=built_in(), accuracy=accuracy, seed=7).labelled()
    means = []
    for window in range(WINDOWS):
        made = [
            load_tasks()[name].make(length=length, seed=7, index=window * questions + place)
            for place in range(questions)
        ]
        means.append(statistics.mean(score(each, answer_from_labels(each, labelled) or "").strict for each in made))
    return means


def estimates() -> None:
    """How far the estimate of tokens is off, for each task at 2^15."""
    encoding = import_module("tiktoken").get_encoding("cl100k_base")
    for name, task in load_tasks().items():
        made = task.make(length=1 << 15, seed=1, index=0)
        text = f"{made.text}\n{made.query}"
        real = len(encoding.encode_ordinary(text))
        print(
            f"{name:20} estimate {tokens(text) / real - 1:+.0%}, four characters a token {len(text) / 4 / real - 1:+.0%}"
        )


def shown(means: list[float]) -> str:
    low, high = min(means), max(means)
    return f"{low:.2f} to {high:.2f}, mean {statistics.mean(means):.2f}" if low < high else f"{low:g}"


def main() -> None:
    if sys.argv[1:] == ["tokens"]:
        estimates()
        return
    slowest, seconds = generation()
    share, peak = harness_share(), memory()
    print("| | measured | goal |\n|---|---|---|")
    print(
        f"| the slowest instance of 2^20 tokens is made in | {seconds:.2f} s ({slowest}) | {GENERATION_SECONDS:g} s |"
    )
    print(f"| the harness beside a run of 10 s over 2^17 tokens | {share:.2%} | {HARNESS_SHARE:.0%} |")
    print(f"| peak memory with 16 instances of 2^20 tokens at once | {peak:,.0f} MB | {MEMORY_MB:,.0f} MB |")
    print("\n| p | `oolong/trec_coarse` at 2^17 | `oolong_pairs` at 2^15 |\n|---|---|---|")
    exact = True
    for accuracy in (1.0, 0.99, 0.95, 0.9):
        oolong = calibrated("oolong/trec_coarse", 1 << 17, QUESTIONS_PER_WINDOW, accuracy)
        pairs = calibrated("oolong_pairs", 1 << 15, len(CONDITIONS), accuracy)
        print(f"| {accuracy:g} | {shown(oolong)} | {shown(pairs)} |")
        exact = exact and (accuracy < 1 or {*oolong, *pairs} == {1.0})
    if seconds > GENERATION_SECONDS or share > HARNESS_SHARE or peak > MEMORY_MB or not exact:
        sys.exit("A goal is missed.")


if __name__ == "__main__":
    main()
