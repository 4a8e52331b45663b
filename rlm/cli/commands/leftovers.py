"""What `rlm clean` may remove: sandboxes of processes that are gone, old runs, and images of other versions.

Never what is another user's, of a run that is alive, or a folder that may be no run. Finding and removing are two steps, so
that a person can be asked.
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

DAY: Final = 86_400.0
IMAGE_SECONDS: Final = 7 * DAY  # for the other checkouts and versions on this machine, as after a build
STOP_SECONDS: Final = 10.0  # for the removal of a container


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovableItem:
    """A thing that may be removed.

    `target` is the engine's id, or the directory; `size` is the bytes that its removal frees on the disk.
    """

    kind: Literal["container", "run", "image"]
    target: str
    text: str
    size: int = 0


async def engine_leftovers(engine: Engine, *, older_than: float | None) -> list[RemovableItem]:
    """Sandboxes whose process is gone; and images of other versions that nothing uses, a week old unless said (seconds).

    Raises:
        EngineUnavailable: the engine does not answer.
    """
    found = []
    for container in await engine.orphans():
        name = next(iter(container.get("Names") or ()), container["Id"][:12]).lstrip("/")
        found.append(RemovableItem(kind="container", target=container["Id"], text=f"{name}, whose process is gone"))
    before = time.time() - (IMAGE_SECONDS if older_than is None else older_than)
    for image in await engine.unused_images():
        names = [name for name in image.get("RepoTags") or () if name != "<none>:<none>"]
        if image_name() not in names and image["Created"] < before:
            said = f"{', '.join(names) or image['Id'][7:19]}, of another version"
            found.append(RemovableItem(kind="image", target=image["Id"], text=said, size=image["Size"]))
    return found


def old_runs(root: Path, *, older_than: float) -> tuple[list[RemovableItem], list[str]]:
    """This user's runs in a folder that nobody works on, and that were not written to for so many seconds.

    Runs inside of a run go with it, and are not listed. Second, a sentence on each folder that stays as it cannot be looked
    at, or may be no run at all.
    """
    found, left = [], []
    for run in list_runs(root):
        try:
            if not _is_ours_and_idle(run.directory):
                continue
            written, size = _written_and_size(run.directory)
            age = time.time() - written
            if age <= older_than:
                continue
            if _is_a_run(run.directory):
                found.append(RemovableItem(kind="run", target=str(run.directory), text=_described(run, age), size=size))
            else:
                left.append(f"{run.directory} is left as it is: it has a run.json, but may be no run.")
        except FileNotFoundError:  # somebody else has removed it meanwhile, or works on it
            continue
        except OSError as error:
            left.append(f"{run.directory} is left as it is: {error.strerror}.")
        except JournalError as error:
            left.append(f"{run.directory} is left as it is: {error}")
    targets = {Path(each.target) for each in found}
    return [each for each in found if targets.isdisjoint(Path(each.target).parents)], left


async def remove(engine: Engine, leftover: RemovableItem) -> str:
    """Remove it, if it may still be.

    Returns:
        Nothing, or why it is still there.
    """
    match leftover.kind:
        case "container":
            return await engine.remove(leftover.target, seconds=STOP_SECONDS)
        case "image":
            return await engine.remove_image(leftover.target)
        case "run":
            return _remove_run(Path(leftover.target))


def _remove_run(directory: Path) -> str:
    try:
        if not _is_ours_and_idle(directory):
            return "somebody works on it"
        while directory.exists():
            with suppress(FileNotFoundError):  # another one removes it too
                shutil.rmtree(directory)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error.strerror or error)
    except JournalError as error:
        return str(error)
    return ""


def _is_ours_and_idle(directory: Path) -> bool:
    """Raises OSError or JournalError where that cannot be seen."""
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        return False
    return not any(is_locked(lock.parent) for lock in directory.rglob(LOCK))  # also of runs inside


def _written_and_size(directory: Path) -> tuple[float, int]:
    """When a run was last written to, in seconds since the epoch, and its bytes.

    Whoever reads a journal, as `rlm runs` does, changes its directory and the files that SQLite needs for that: they tell
    nothing.
    """
    files = {path: path.lstat() for path in (directory, *directory.rglob("*"))}
    written = (
        status.st_mtime
        for path, status in files.items()
        if not stat.S_ISDIR(status.st_mode) and not path.name.endswith(("-shm", "-wal"))
    )
    return max(written, default=0), sum(status.st_size for status in files.values())


def _is_a_run(directory: Path) -> bool:
    """Whether two of the three files that every run has are as it writes them: one alone may be a copy, or another's."""
    signs = (
        _is_recorded(directory),
        _begin(directory / JOURNAL) == b"SQLite format 3\0",
        re.fullmatch(rb"\n[0-9]+", _begin(directory / LOCK)) is not None,
    )
    return sum(signs) >= 2


def _is_recorded(directory: Path) -> bool:
    try:
        RunRecord.load(directory)
    except RLMError:
        return False
    return True


def _begin(file: Path) -> bytes:
    """Its first 16 bytes; none where it cannot be read."""
    with suppress(OSError):
        if file.is_file():
            with file.open("rb") as stream:
                return stream.read(16)
    return b""


def _described(run: RunSummary, age: float) -> str:
    resumable = ", which could be resumed" if run.state in ("interrupted", "failed") else ""
    return f"{run.run_id}, {run.state}{resumable}, {age / DAY:.0f} days old"
