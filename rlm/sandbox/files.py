"""What a sandbox says of its files, and where the host may write them. What it says is hostile."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from rlm.errors import ConfigError, SandboxMisbehaved
from rlm.protocol.paths import parts_of
from rlm.protocol.plain import unpack_plain

MAX_FILES: Final = 10_000  # of the working directory that are named
MAX_LISTING_BYTES: Final = 2 << 20  # of their names and sizes: decoded, hostile ones take 50 times as much
FILE_MODE: Final = 0o644


class Listing(dict[str, int]):
    """Path and size in bytes of files. `left_out` is how many more there are."""

    left_out: int = 0


def check_path(path: str) -> None:
    """Raises ConfigError when there can be no file of that name in a sandbox."""
    try:
        parts_of(path)
    except ValueError as error:
        raise ConfigError(f"There can be no file of that name in a sandbox: {error}.") from error


def read_listing(data: bytes) -> Listing:
    """Paths and sizes, and the number of files beyond them, as a guest sent them.

    Raises:
        SandboxMisbehaved: it is something else.
    """
    if len(data) > MAX_LISTING_BYTES:
        raise SandboxMisbehaved("The sandbox sent a list of files that is too long.")
    try:
        found, left_out = unpack_plain(data)
        if not isinstance(found, dict) or not all(type(path) is str for path in found):
            raise ValueError("no paths")
        if not all(type(size) is int and size >= 0 for size in (*found.values(), left_out)):
            raise ValueError("no sizes")
        listing = Listing(found)
        listing.left_out = left_out
        if len(listing) > MAX_FILES:
            raise ValueError("more files than were asked for")
        for path in listing:
            parts_of(path)
    except (TypeError, ValueError) as error:
        raise SandboxMisbehaved("The sandbox sent a list of files that is none.") from error
    return listing


def write_below(folder: Path, path: str, content: bytes) -> Path:
    """Write a file that came from a sandbox. No link is followed on the way, and nothing that is there is changed.

    Raises:
        ConfigError: it cannot be written there.
    """
    check_path(path)
    *folders, name = parts_of(path)
    opened = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        for part in folders:
            with suppress(FileExistsError):  # as a folder, or opening it says what else it is
                os.mkdir(part, dir_fd=opened[-1])
            opened.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(name, flags, FILE_MODE, dir_fd=opened[-1])
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
        except BaseException:  # the disk is full: a part of a file is not to pass for it
            os.unlink(name, dir_fd=opened[-1])
            raise
    except OSError as error:
        raise ConfigError(
            f"The file {path!r} cannot be written to {folder} ({error.strerror}): choose another folder."
        ) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return folder / path
