"""The working directory as the host uses it: files in, files out, and all of it gone. Runs in the supervisor.

What lies there is the model's code's: links, pipes, folders in folders without end, files that change while they are read.
No link is followed (each part of a path is opened beneath the one before, with O_NOFOLLOW), nothing but a regular file is
read, and nothing waits (O_NONBLOCK: a pipe without a writer).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator, Sequence

from rlm.protocol.messages import CHUNK_BYTES
from rlm.protocol.paths import parts_of

WORKDIR = "/workspace"
SCRATCH = ("/tmp", WORKDIR)  # noqa: S108 - the container's
READ_ONLY = 0o444
LISTING_BYTES = 1 << 20  # of all names that are listed
_PLAINLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _open_folder(name: str, above: int | None = None) -> int:
    """Without O_DIRECTORY, beside which gVisor (2022) forgets O_NOFOLLOW."""
    descriptor = os.open(name, _PLAINLY, dir_fd=above)
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return descriptor


@contextlib.contextmanager
def _folder(parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """A folder beneath the working directory."""
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
    """A new file, in the place of whatever had its name.

    Raises:
        ValueError, OSError: it cannot be; nothing of it is left then.
    """
    *folders, name = parts_of(path)
    with _folder(folders, make=True) as folder:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, READ_ONLY, dir_fd=folder)
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
    """A regular file's bytes.

    Raises:
        ValueError, OSError: it is not there, is no regular file, or has more than `max_bytes`.
    """
    *folders, name = parts_of(path)
    with _folder(folders) as folder:
        descriptor = os.open(name, _PLAINLY, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path!r} is no regular file")
        left = max_bytes
        while piece := os.read(descriptor, CHUNK_BYTES):
            left -= len(piece)  # counted, as the file may grow meanwhile
            if left < 0:
                raise ValueError(f"{path!r} has more than {max_bytes:,} bytes")
            yield piece
    finally:
        os.close(descriptor)


def listing(max_files: int) -> tuple[dict[str, int], int]:
    """Path and size of the regular files whose paths the host would take, at most so many, and with names so long.

    The second is how many more there are.
    """
    found: dict[str, int] = {}
    left = LISTING_BYTES
    left_out = 0
    folders: list[list[str]] = [[]]
    while folders:
        parts = folders.pop()
        with contextlib.suppress(OSError), _folder(parts) as folder, os.scandir(folder) as entries:
            for entry in entries:
                path = "/".join((*parts, entry.name))
                try:
                    parts_of(path)
                except ValueError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append([*parts, entry.name])
                elif entry.is_file(follow_symlinks=False):
                    left -= len(path.encode()) + 16  # with its size, as msgpack
                    if len(found) == max_files or left < 0:
                        left_out += 1
                    else:
                        found[path] = entry.stat(follow_symlinks=False).st_size
    return dict(sorted(found.items())), left_out


def empty_scratch() -> None:
    """Remove all that was written. No process of the model's code may be left, so nothing changes meanwhile."""
    for place in SCRATCH:
        root = _open_folder(place)
        try:
            _empty(root)
        finally:
            os.close(root)


def _empty(root: int) -> None:
    """Folders in folders are moved up to the top, level by level: so their depth costs neither stack nor descriptors."""
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
