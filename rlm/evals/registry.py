"""All tasks, by name."""

from __future__ import annotations

from . import ruler, seed_niah
from .task import Task


def tasks() -> dict[str, Task]:
    """The tasks in the order of a report."""
    every: list[Task] = [*ruler.VARIANTS, *seed_niah.VARIANTS]
    return {task.name: task for task in every}
