"""All tasks, by name."""

from __future__ import annotations

from pathlib import Path

from rlm.evals.corpus.questions import built_in, read_trec
from rlm.evals.tasks.multihop import Multihop
from rlm.evals.tasks.oolong import Oolong
from rlm.evals.tasks.pairs import Pairs
from rlm.evals.tasks.repo_qa import RepoQA

from .task import Task
from .tasks import long_output, ruler, seed_niah


def tasks(*, trec: Path | None = None) -> dict[str, Task]:
    """The tasks in the order of a report.

    Args:
        trec: the file of the real TREC questions; with it there are `oolong/trec_file` and `oolong_pairs/trec_file` too.

    Raises:
        ConfigError: the file cannot be read.
    """
    every: list[Task] = [
        *ruler.VARIANTS,
        *seed_niah.VARIANTS,
        Oolong(name="oolong/trec_coarse", questions=built_in),
        Pairs(name="oolong_pairs", questions=built_in),
        Multihop(),
        *long_output.VARIANTS,
        RepoQA(),
    ]
    if trec is not None:
        real = read_trec(trec)
        every += [
            Oolong(name="oolong/trec_file", questions=lambda: real),
            Pairs(name="oolong_pairs/trec_file", questions=lambda: real),
        ]
    return {task.name: task for task in every}
