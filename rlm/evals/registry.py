"""All tasks by name."""

from __future__ import annotations

from pathlib import Path

from rlm.evals.corpus.questions import built_in, read_trec
from rlm.evals.tasks.multihop import Multihop
from rlm.evals.tasks.niah import SeedNiah
from rlm.evals.tasks.oolong import Oolong
from rlm.evals.tasks.pairs import Pairs
from rlm.evals.tasks.repo_qa import RepoQA

from .task import Task
from .tasks import long_output, niah, ruler


def load_tasks(*, trec: Path | None = None, facts: int | None = None) -> dict[str, Task]:
    """All tasks in report order.

    Args:
        trec: the file of TREC questions, which adds `oolong/trec_file` and `oolong_pairs/trec_file`.
        facts: names that an instance of `seed_niah/facts` asks for; 5 by default.

    Raises:
        ConfigError: the file is unreadable.
    """
    tasks: list[Task] = [
        *ruler.VARIANTS,
        SeedNiah(variant="needle", facts=1),
        SeedNiah(variant="facts", facts=facts or niah.FACTS),
        Oolong(name="oolong/trec_coarse", questions=built_in),
        Pairs(name="oolong_pairs", questions=built_in),
        Multihop(),
        *long_output.VARIANTS,
        RepoQA(),
    ]
    if trec is not None:
        questions = read_trec(trec)
        tasks += [
            Oolong(name="oolong/trec_file", questions=lambda: questions),
            Pairs(name="oolong_pairs/trec_file", questions=lambda: questions),
        ]
    return {task.name: task for task in tasks}
