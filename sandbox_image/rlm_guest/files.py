"""File access to the working directory for the host: write, read, list, and empty it. Runs in the supervisor.

The model's code controls the contents: links, pipes, deeply nested folders, files that change during reading. This module
follows no link (it opens each part of a path below the previous one, with O_NOFOLLOW). It reads only regular files, and
never blocks (O_NONBLOCK, for a pipe without a writer).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator, Sequence

from rlm.protocol.messages import CHUNK_BYTES
from rlm.protocol.paths import split_path

WORKDIR = "/workspace"
SCRATCH = ("/tmp", WORKDIR)  # noqa: S108 - the container's
FILE_MODE = 0o444  # files of the host are read-only
MAX_LISTING_BYTES = 1 << 20  # total size of the listed names
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _open_folder(name: str, above: int | None = None) -> int:
    """Open a folder without O_DIRECTORY, which makes gVisor (2022) ignore O_NOFOLLOW."""
    descriptor = os.open(name, _OPEN_FLAGS, dir_fd=above)
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return descriptor


@contextlib.contextmanager
def _folder(parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """Open a folder below the working directory."""
    descriptor = _open_folder(WORKDIR)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=descriptor)
            above, descriptor = descriptor, _open_folder(part, descriptor)
            os.close(above)
        yield descriptor
    finally:
        os.close(descriptor)


def write(path: str, content: Iterator[bytes]) -> None:
    """Write a new file, which replaces any entry of that name.

    Raises:
        ValueError, OSError: Writing failed; no part of the file remains.
    """
    *folders, name = split_path(path)
    with _folder(folders, make=True) as folder:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, FILE_MODE, dir_fd=folder)
        try:
            for piece in content:
                view = memoryview(piece)
                while view:
                    view = view[os.write(descriptor, view) :]
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(descriptor)


def read(path: str, max_bytes: int) -> Iterator[bytes]:
    """Read a regular file.

    Raises:
        ValueError, OSError: The file does not exist, is not a regular file, or exceeds `max_bytes`.
    """
    *folders, name = split_path(path)
    with _folder(folders) as folder:
        descriptor = os.open(name, _OPEN_FLAGS, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path!r} is not a regular file")
        remaining = max_bytes
        while piece := os.read(descriptor, CHUNK_BYTES):
            remaining -= len(piece)  # counted here, because the file may grow
            if remaining < 0:
                raise ValueError(f"{path!r} has more than {max_bytes:,} bytes")
            yield piece
    finally:
        os.close(descriptor)


def listing(max_files: int) -> tuple[dict[str, int], int]:
    """List regular files whose paths the host accepts: their sizes by path, and the number of further files.

    `max_files` and `MAX_LISTING_BYTES` limit the list.
    """
    found: dict[str, int] = {}
    remaining = MAX_LISTING_BYTES
    skipped = 0
    folders: list[list[str]] = [[]]
    while folders:
        parts = folders.pop()
        with contextlib.suppress(OSError), _folder(parts) as folder, os.scandir(folder) as entries:
            for entry in entries:
                path = "/".join((*parts, entry.name))
                try:
                    split_path(path)
                except ValueError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append([*parts, entry.name])
                elif entry.is_file(follow_symlinks=False):
                    remaining -= len(path.encode()) + 16  # with its size, as msgpack
                    if len(found) == max_files or remaining < 0:
                        skipped += 1
                    else:
                        found[path] = entry.stat(follow_symlinks=False).st_size
    return dict(sorted(found.items())), skipped


def empty_scratch() -> None:
    """Remove all files. The caller has ended every process of the model's code, so nothing changes meanwhile."""
    for place in SCRATCH:
        root = _open_folder(place)
        try:
            _empty(root)
        finally:
            os.close(root)


def _empty(root: int) -> None:
    """Empty a folder. Nested folders are moved to the top level by level, so depth takes no stack or descriptors."""
    numbers = itertools.count()
    while names := os.listdir(root):
        for name in names:
            if not _is_folder(name, root):
                os.unlink(name, dir_fd=root)
                continue
            os.chmod(name, 0o700, dir_fd=root)
            inner = _open_folder(name, root)
            try:
                for child in os.listdir(inner):
                    if _is_folder(child, inner):
                        os.chmod(child, 0o700, dir_fd=inner)
                        _move_up(child, inner, root, numbers)
                    else:
                        os.unlink(child, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=root)


def _move_up(name: str, folder: int, root: int, numbers: Iterator[int]) -> None:
    while True:
        target = f"emptied-{next(numbers)}"
        try:
            os.stat(target, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, target, src_dir_fd=folder, dst_dir_fd=root)
            return


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
