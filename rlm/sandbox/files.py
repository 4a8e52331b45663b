"""Untrusted file lists from a sandbox, and safe writing of its files on the host."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from rlm.errors import ConfigError, SandboxMisbehaved
from rlm.protocol.paths import split_path
from rlm.protocol.plain import unpack_plain

MAX_FILES: Final = 10_000  # entries of one list
MAX_LISTING_BYTES: Final = 2 << 20  # size of an encoded list; a hostile one takes 50 times as much memory when decoded
FILE_MODE: Final = 0o644


class Listing(dict[str, int]):
    """Files by path, with their size in bytes. `skipped` counts further files that are not listed."""

    skipped: int = 0


def check_path(path: str) -> None:
    """Raise ConfigError if a path is invalid in a sandbox."""
    try:
        split_path(path)
    except ValueError as error:
        raise ConfigError(f"The sandbox path is invalid: {error}.") from error


def read_listing(data: bytes) -> Listing:
    """Decode a guest's file list.

    Raises:
        SandboxMisbehaved: The list is invalid.
    """
    if len(data) > MAX_LISTING_BYTES:
        raise SandboxMisbehaved("The sandbox sent a file list that is too long.")
    try:
        sizes, skipped = unpack_plain(data)
        if not isinstance(sizes, dict) or not all(type(path) is str for path in sizes):
            raise ValueError("paths must be text")
        if not all(type(size) is int and size >= 0 for size in (*sizes.values(), skipped)):
            raise ValueError("sizes must be non-negative integers")
        listing = Listing(sizes)
        listing.skipped = skipped
        if len(listing) > MAX_FILES:
            raise ValueError("more files than requested")
        for path in listing:
            split_path(path)
    except (TypeError, ValueError) as error:
        raise SandboxMisbehaved("The sandbox sent an invalid file list.") from error
    return listing


def write_below(folder: Path, path: str, content: bytes) -> Path:
    """Write a file from a sandbox below a folder. Follows no link, and never overwrites a file.

    Returns:
        Path of the new file.

    Raises:
        ConfigError: The path is invalid, or the file cannot be written.
    """
    check_path(path)
    *folders, name = split_path(path)
    opened = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        for part in folders:
            with suppress(FileExistsError):  # if it is not a folder, opening it fails
                os.mkdir(part, dir_fd=opened[-1])
            opened.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(name, flags, FILE_MODE, dir_fd=opened[-1])
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
        except BaseException:  # such as a full disk: never leave a partial file
            os.unlink(name, dir_fd=opened[-1])
            raise
    except OSError as error:
        raise ConfigError(f"Cannot write {path!r} to {folder} ({error.strerror}): choose another folder.") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return folder / path
