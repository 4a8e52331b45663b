"""Python values as bytes for a sandbox: described by kind, produced piece by piece so that large ones are never copied.

Pure, but for reading the files of a `Path`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack

from rlm.errors import ConfigError
from rlm.protocol.messages import CHUNK_BYTES, KIB, Kind
from rlm.types import Context

SLICE_CHARS: Final = CHUNK_BYTES // 4  # no character takes more than four bytes in UTF-8
MAX_DEPTH: Final = 400  # of lists in lists; msgpack itself stops at 511
MAX_FILE_BYTES: Final = (1 << 32) - 1  # of one file in a folder, and of any other text or bytes in plain data (msgpack)
LARGE_TEXT: Final = 64 * KIB  # texts of this many characters go out by slices
LARGE_ITEMS: Final = 256  # a list of so many items is gone through; one of fewer is packed at once
FLUSH_ITEMS: Final = 32  # between two looks at how much has been packed

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value in the encoding of its `kind` (see `rlm.protocol.messages.Load`).

    `size` is the number of bytes that `pieces()` yields; every piece is at most `CHUNK_BYTES` long.
    """

    kind: Kind
    size: int
    pieces: Callable[[], Iterator[Piece]]


def encode(context: Context, *, max_bytes: int | None = None) -> Value:
    """A context as a value.

    Raises:
        ConfigError: it holds something that is not plain data, cannot be read, or is larger than `max_bytes`.
    """
    match context:
        case str():
            value = Value(kind="text", size=_utf8_size(context), pieces=lambda: _slices(context))
        case bytes() | bytearray() | memoryview():
            value = opaque("bytes", bytes(context))
        case Path():
            value = _folder(context) if context.is_dir() else _file(context)
        case Mapping() | Sequence():
            size = sum(map(len, _packed(context)))
            value = Value(kind="data", size=size, pieces=lambda: _regular(_packed(context)))
        case _:
            raise ConfigError(
                f"A context cannot be a {type(context).__name__}: "
                "give text, bytes, a list or dict of plain data, or a Path."
            )
    if max_bytes is not None and value.size > max_bytes:
        raise ConfigError(
            f"The context has {value.size:,} bytes and the limit is {max_bytes:,}: "
            "raise max_context_bytes, or give less."
        )
    return value


def opaque(kind: Kind, data: bytes) -> Value:
    """A value that is encoded already, such as one that came from a sandbox."""
    return Value(kind=kind, size=len(data), pieces=lambda: _views(data))


def from_file(kind: Kind, path: Path, size: int) -> Value:
    """A value that was encoded into a file: `size` bytes of it."""
    return Value(kind=kind, size=size, pieces=lambda: _read(path, size))


def ends_of(value: Value, chars: int) -> tuple[str, str]:
    """The first and the last characters of a text, a quarter of so many at least; nothing of other kinds."""
    if value.kind != "text":
        return "", ""
    first = last = b""
    for piece in value.pieces():
        first = first or bytes(piece[:chars])
        last = (last + bytes(piece[-chars:]))[-chars:]
    # Where bytes were cut out, characters may be broken: those at the cut are left out.
    return first.decode("utf-8", "ignore"), last.decode("utf-8", "ignore")


def _views(data: bytes) -> Iterator[Piece]:
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else sum(map(len, _slices(text)))


def _slices(text: str) -> Iterator[bytes]:
    width = CHUNK_BYTES if text.isascii() else SLICE_CHARS
    for start in range(0, len(text), width):
        yield text[start : start + width].encode("utf-8", "surrogatepass")


# Plain data


def _packed(value: object) -> Iterator[Piece]:
    """The msgpack encoding of plain data, a part at a time."""
    try:
        packer = msgpack.Packer(default=_as_plain, unicode_errors="surrogatepass", autoreset=False)
        yield from _walk(packer, value, 0)
        yield packer.bytes()
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(_blame(value, "the context", 0) or f"The context cannot be encoded: {error}.") from error


def _as_plain(item: object) -> object:
    """For msgpack, which itself knows dict, list and tuple."""
    match item:
        case Mapping():
            return dict(item)
        case Sequence() if not isinstance(item, memoryview):
            return list(item)
        case _:
            raise TypeError(type(item).__name__)


def _walk(packer: msgpack.Packer, value: object, depth: int) -> Iterator[Piece]:
    """Fill `packer`, and empty it before it holds much more than a piece.

    Large lists and dicts, and small ones whose items could be large, are gone through item by item; what is small
    inside of what is large is left to msgpack, which is ten times as fast.
    """
    if depth > MAX_DEPTH:
        raise ValueError("too many levels")
    if not isinstance(value, dict | list | tuple):
        value = _as_plain(value)
    if isinstance(value, dict):
        packer.pack_map_header(len(value))
        items: Iterable[Any] = (part for entry in value.items() for part in entry)
        if not all(map(_is_key, value)):
            raise TypeError("key")
    else:
        assert isinstance(value, list | tuple)
        packer.pack_array_header(len(value))
        items = value
    few = len(value) < LARGE_ITEMS
    for number, item in enumerate(items):
        if isinstance(item, str) and len(item) > LARGE_TEXT:
            yield packer.bytes() + b"\xdb" + _utf8_size(item).to_bytes(4, "big")  # str 32 of msgpack
            packer.reset()
            yield from _slices(item)
        elif isinstance(item, dict | list | tuple) and (few or len(item) >= LARGE_ITEMS):
            yield from _walk(packer, item, depth + 1)
        else:
            packer.pack(item)
        if number % FLUSH_ITEMS == 0 and len(packer.getbuffer()) >= CHUNK_BYTES:
            yield packer.bytes()
            packer.reset()


def _is_key(key: object) -> bool:
    return isinstance(key, str | int | float | bytes | None)


def _blame(value: object, place: str, depth: int) -> str:
    """Which part of a value cannot be encoded, in a sentence; empty if there is none."""
    if depth > MAX_DEPTH:
        return f"The context cannot be sent to a sandbox: its lists and dicts have more than {MAX_DEPTH} levels."
    match value:
        case None | str() | bytes() | bytearray() | float():
            return ""
        case int():
            if -(1 << 63) <= value < 1 << 64:
                return ""
            problem = "an int of more than 64 bits: send it as text"
        case Mapping():
            for key, item in value.items():
                if not _is_key(key):
                    return f"The context cannot be sent to a sandbox: {place} has a key of type {type(key).__name__}."
                if found := _blame(key, f"a key of {place}", depth + 1) or _blame(item, f"{place}[{key!r}]", depth + 1):
                    return found
            return ""
        case Sequence():
            return next(filter(None, (_blame(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value))), "")
        case _:
            problem = f"of type {type(value).__name__}: use text, bytes, numbers, None, lists and dicts"
    return f"The context cannot be sent to a sandbox: {place} is {problem}."


def _regular(parts: Iterable[Piece]) -> Iterator[Piece]:
    """The same bytes in pieces of a good size."""
    buffer = bytearray()
    for part in parts:
        buffer += part
        while len(buffer) >= CHUNK_BYTES:
            yield bytes(memoryview(buffer)[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)


# Files


def _file(path: Path) -> Value:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"The context {path} is neither a file nor a folder.")
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(path, error) from error
    return Value(kind="file", size=status.st_size, pieces=lambda: _read(path, status.st_size))


def _unreadable(path: Path | str, error: OSError) -> ConfigError:
    return ConfigError(f"The context cannot be read: {path}: {error.strerror}.")


def _read(path: Path, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes of a file, as were announced."""
    try:
        with path.open("rb", buffering=0) as file:
            left = size
            while left:
                piece = file.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise ConfigError(f"The file {path} became shorter while it was read: try again.")
                left -= len(piece)
                yield piece
    except OSError as error:
        raise _unreadable(path, error) from error


def _folder(path: Path) -> Value:
    """A map of relative path to content, of regular files only; links could lead out of the folder."""
    try:
        files = sorted(_files(path))
    except OSError as error:
        raise _unreadable(error.filename, error) from error
    for name, size in files:
        if size > MAX_FILE_BYTES:
            raise ConfigError(
                f"The file {path / name} has {size:,} bytes; one in a folder may have {MAX_FILE_BYTES:,}."
            )

    def headers() -> Iterator[bytes]:
        packer = msgpack.Packer(unicode_errors="surrogatepass")
        yield packer.pack_map_header(len(files))
        for name, size in files:
            yield packer.pack(name) + b"\xc6" + size.to_bytes(4, "big")  # bin 32 of msgpack

    def parts() -> Iterator[Piece]:
        start, *entries = headers()
        yield start
        for entry, (name, size) in zip(entries, files, strict=True):
            yield entry
            yield from _read(path / name, size)

    size = sum(map(len, headers())) + sum(size for _, size in files)
    return Value(kind="folder", size=size, pieces=lambda: _regular(parts()))


def _files(path: Path) -> Iterator[tuple[str, int]]:
    """The relative path and the size of each regular file."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(path, onerror=refuse):
        for name in names:
            file = Path(parent, name)
            status = file.lstat()
            if stat.S_ISREG(status.st_mode):
                yield file.relative_to(path).as_posix(), status.st_size
