"""Run directories as killed processes leave them, and the states of calls in their journals."""

import shutil
import sqlite3
from pathlib import Path


def crash(run: Path, copy: Path) -> None:
    """Copy what a process would leave if it was killed now."""
    copy.parent.mkdir(parents=True)
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("journal*"))
    source, target = sqlite3.connect(run / "journal.sqlite"), sqlite3.connect(copy / "journal.sqlite")
    source.backup(target)
    source.close()
    target.close()


def states(run: Path) -> list[str]:
    database = sqlite3.connect(run / "journal.sqlite")
    found = [state for (state,) in database.execute("SELECT state FROM calls WHERE NOT stale ORDER BY id")]
    database.close()
    return found
