"""What `rlm clean` may remove: sandboxes of processes that are gone, old runs, and images of other versions.

Never what is another user's or of a run that is alive. Finding and removing are two steps, so that a person can be asked.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from .hold import is_held
from .runs import RunSummary, list_runs
from .sandbox.docker import Engine
from .sandbox.image import image_name

DAY: Final = 86_400.0
IMAGE_SECONDS: Final = 7 * DAY  # for the other checkouts and versions on this machine, as after a build
STOP_SECONDS: Final = 10.0  # for the removal of a container


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A thing that may be removed.

    `target` is the engine's id, or the directory; `size` is the bytes that its removal frees on the disk.
    """

    kind: Literal["container", "run", "image"]
    target: str
    text: str
    size: int = 0


async def engine_leftovers(engine: Engine, *, older_than: float | None) -> list[Leftover]:
    """Sandboxes whose process is gone; and images of other versions that nothing uses, a week old unless said (seconds).

    Raises:
        EngineUnavailable: the engine does not answer.
    """
    found = []
    for container in await engine.orphans():
        name = next(iter(container.get("Names") or ()), container["Id"][:12]).lstrip("/")
        found.append(Leftover(kind="container", target=container["Id"], text=f"{name}, whose process is gone"))
    before = time.time() - (IMAGE_SECONDS if older_than is None else older_than)
    for image in await engine.idle_images():
        names = [name for name in image.get("RepoTags") or () if name != "<none>:<none>"]
        if image_name() not in names and image["Created"] < before:
            said = f"{', '.join(names) or image['Id'][7:19]}, of another version"
            found.append(Leftover(kind="image", target=image["Id"], text=said, size=image["Size"]))
    return found


def old_runs(root: Path, *, older_than: float) -> Iterator[Leftover]:
    """This user's runs in a folder that nobody works on, and that were not written to for so many seconds."""
    for run in list_runs(root):
        if not _is_ours_and_idle(run.directory):
            continue
        files = [path.lstat() for path in (run.directory, *run.directory.rglob("*"))]
        age = time.time() - max(status.st_mtime for status in files)
        if age > older_than:
            size = sum(status.st_size for status in files)
            yield Leftover(kind="run", target=str(run.directory), text=_described(run, age), size=size)


async def remove(engine: Engine, leftover: Leftover) -> str:
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
    if not _is_ours_and_idle(directory):
        return "somebody works on it"
    try:
        shutil.rmtree(directory)
    except OSError as error:
        return str(error.strerror or error)
    return ""


def _is_ours_and_idle(directory: Path) -> bool:
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        return False
    return not is_held(directory)


def _described(run: RunSummary, age: float) -> str:
    resumable = ", which could be resumed" if run.state in ("interrupted", "failed") else ""
    return f"{run.run_id}, {run.state}{resumable}, {age / DAY:.0f} days old"
