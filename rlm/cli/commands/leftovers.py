"""Leftovers that `rlm clean` may remove: orphaned sandboxes, old runs, and images of other versions.

Never included: files of another user, runs in progress, and folders that may not be runs. Finding and removing are two
steps, so that the command can ask in between.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rlm.errors import JournalError, RLMError
from rlm.sandbox.docker.engine import Engine
from rlm.sandbox.docker.image import image_name
from rlm.store.entries import FILE_NAME as JOURNAL
from rlm.store.lock import FILE_NAME as LOCK
from rlm.store.lock import is_locked
from rlm.store.record import RunRecord
from rlm.store.runs import RunSummary, list_runs

DAY: Final = 86_400.0  # seconds
IMAGE_SECONDS: Final = 7 * DAY  # younger images may serve other checkouts on this machine
STOP_SECONDS: Final = 10.0  # timeout for removing a container


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovableItem:
    """A container, run or image that may be removed.

    Attributes:
        kind: kind of the item.
        target: the engine's ID, or the path of the directory.
        text: its description.
        size: bytes of disk space that the removal frees.
    """

    kind: Literal["container", "run", "image"]
    target: str
    text: str
    size: int = 0


async def engine_leftovers(engine: Engine, *, older_than: float | None) -> list[RemovableItem]:
    """Orphaned sandboxes, and unused images of other versions.

    Args:
        engine: the engine to search.
        older_than: minimum age of images, in seconds; None is a week.

    Raises:
        EngineUnavailable: the engine does not answer.
    """
    items = []
    for container in await engine.orphans():
        name = next(iter(container.get("Names") or ()), container["Id"][:12]).lstrip("/")
        items.append(RemovableItem(kind="container", target=container["Id"], text=f"{name}, orphaned"))
    before = time.time() - (IMAGE_SECONDS if older_than is None else older_than)
    for image in await engine.unused_images():
        names = [name for name in image.get("RepoTags") or () if name != "<none>:<none>"]
        if image_name() not in names and image["Created"] < before:
            text = f"{', '.join(names) or image['Id'][7:19]}, of another version"
            items.append(RemovableItem(kind="image", target=image["Id"], text=text, size=image["Size"]))
    return items


def old_runs(root: Path, *, older_than: float) -> tuple[list[RemovableItem], list[str]]:
    """The current user's idle runs in a folder, last written to more than `older_than` seconds ago.

    A run inside another one is removed with it and not listed.

    Returns:
        The runs; and a sentence for each skipped folder, which is unreadable or may not be a run.
    """
    items, skipped = [], []
    for run in list_runs(root):
        try:
            if not _is_ours_and_idle(run.directory):
                continue
            written, size = _last_write_and_size(run.directory)
            age = time.time() - written
            if age <= older_than:
                continue
            if _is_run(run.directory):
                items.append(
                    RemovableItem(kind="run", target=str(run.directory), text=_description(run, age), size=size)
                )
            else:
                skipped.append(f"Skipped {run.directory}: it has a run.json, but may not be a run.")
        except FileNotFoundError:  # removed or in use by another process
            continue
        except OSError as error:
            skipped.append(f"Skipped {run.directory}: {error.strerror}.")
        except JournalError as error:
            skipped.append(f"Skipped {run.directory}: {error}")
    targets = {Path(item.target) for item in items}
    return [item for item in items if targets.isdisjoint(Path(item.target).parents)], skipped


async def remove(engine: Engine, item: RemovableItem) -> str:
    """Remove an item, unless it has come into use.

    Returns:
        Why it was not removed; empty if it was.
    """
    match item.kind:
        case "container":
            return await engine.remove(item.target, seconds=STOP_SECONDS)
        case "image":
            return await engine.remove_image(item.target)
        case "run":
            return _remove_run(Path(item.target))


def _remove_run(directory: Path) -> str:
    try:
        if not _is_ours_and_idle(directory):
            return "it is in use"
        while directory.exists():
            with suppress(FileNotFoundError):  # another process removes it, too
                shutil.rmtree(directory)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error.strerror or error)
    except JournalError as error:
        return str(error)
    return ""


def _is_ours_and_idle(directory: Path) -> bool:
    """Whether a run is this user's and not in use. Raises OSError or JournalError if it is unreadable."""
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        return False
    return not any(is_locked(lock.parent) for lock in directory.rglob(LOCK))  # includes runs inside


def _last_write_and_size(directory: Path) -> tuple[float, int]:
    """The time of a run's last write, in seconds since the epoch, and its size in bytes.

    Reading a journal, as `rlm runs` does, changes its directory and SQLite's side files: their times are ignored.
    """
    files = {path: path.lstat() for path in (directory, *directory.rglob("*"))}
    written = (
        status.st_mtime
        for path, status in files.items()
        if not stat.S_ISDIR(status.st_mode) and not path.name.endswith(("-shm", "-wal"))
    )
    return max(written, default=0), sum(status.st_size for status in files.values())


def _is_run(directory: Path) -> bool:
    """Whether two of a run's three files are valid: a single one may be a copy or another program's file."""
    signs = (
        _has_record(directory),
        _head(directory / JOURNAL) == b"SQLite format 3\0",
        re.fullmatch(rb"\n[0-9]+", _head(directory / LOCK)) is not None,
    )
    return sum(signs) >= 2


def _has_record(directory: Path) -> bool:
    try:
        RunRecord.load(directory)
    except RLMError:
        return False
    return True


def _head(file: Path) -> bytes:
    """The first 16 bytes of a file; empty if it is unreadable."""
    with suppress(OSError):
        if file.is_file():
            with file.open("rb") as stream:
                return stream.read(16)
    return b""


def _description(run: RunSummary, age: float) -> str:
    resumable = ", resumable" if run.state in ("interrupted", "failed") else ""
    return f"{run.run_id}, {run.state}{resumable}, {age / DAY:.0f} days old"
