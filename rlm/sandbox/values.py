"""Encodes Python values for a sandbox, piece by piece so that large values are never copied.

Pure, except for reading the files of a `Path`.
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

SLICE_CHARS: Final = CHUNK_BYTES // 4  # a character takes at most four bytes in UTF-8
MAX_DEPTH: Final = 400  # nesting of lists and dicts; msgpack itself stops at 511
MAX_FILE_BYTES: Final = (1 << 32) - 1  # msgpack's limit for text or bytes, so also for a file in a folder
LARGE_TEXT_CHARS: Final = 64 * KIB  # longer texts are encoded in slices
LARGE_ITEMS: Final = 256  # longer lists are encoded item by item, shorter ones in one call
FLUSH_ITEMS: Final = 32  # how many items are packed between checks of the buffer's size

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An encoded value.

    Attributes:
        kind: Encoding (see `rlm.protocol.messages.Load`).
        size: Total number of bytes.
        pieces: Yields the bytes, at most `CHUNK_BYTES` at a time.
    """

    kind: Kind
    size: int
    pieces: Callable[[], Iterator[Piece]]


def encode(context: Context, *, max_bytes: int | None = None) -> Value:
    """Encode a context.

    Args:
        context: Text, bytes, plain data, or the path of a file or folder.
        max_bytes: Limit on the encoded size. None means no limit.

    Raises:
        ConfigError: The context is not plain data, is unreadable, or exceeds `max_bytes`.
    """
    match context:
        case str():
            value = Value(kind="text", size=_utf8_size(context), pieces=lambda: _slices(context))
        case bytes() | bytearray() | memoryview():
            value = opaque("bytes", bytes(context))
        case Path():
            value = _folder(context) if context.is_dir() else _file(context)
        case Mapping() | Sequence():
            size = sum(map(len, _pack(context)))
            value = Value(kind="data", size=size, pieces=lambda: _rechunk(_pack(context)))
        case _:
            raise ConfigError(
                f"Unsupported context type {type(context).__name__}: "
                "pass text, bytes, a Path, or a list or dict of plain data."
            )
    if max_bytes is not None and value.size > max_bytes:
        raise ConfigError(
            f"The context has {value.size:,} bytes, more than the limit of {max_bytes:,}: "
            "raise max_context_bytes, or pass a smaller context."
        )
    return value


def opaque(kind: Kind, data: bytes) -> Value:
    """Wrap bytes that are already encoded, such as a value from a sandbox."""
    return Value(kind=kind, size=len(data), pieces=lambda: _views(data))


def from_file(kind: Kind, path: Path, size: int) -> Value:
    """Wrap the first `size` bytes of a file that holds an encoded value."""
    return Value(kind=kind, size=size, pieces=lambda: _read(path, size))


def head_and_tail(value: Value, chars: int) -> tuple[str, str]:
    """The beginning and the end of a text, each of `chars` / 4 to `chars` characters; empty for other kinds."""
    if value.kind != "text":
        return "", ""
    first = last = b""
    for piece in value.pieces():
        first = first or bytes(piece[:chars])
        last = (last + bytes(piece[-chars:]))[-chars:]
    # The cut may split characters; drop those.
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


def _pack(value: object) -> Iterator[Piece]:
    """Encode plain data as msgpack, in parts."""
    try:
        packer = msgpack.Packer(default=_as_plain, unicode_errors="surrogatepass", autoreset=False)
        yield from _walk(packer, value, 0)
        yield packer.bytes()
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(_find_problem(value, "the context", 0) or f"Cannot encode the context: {error}.") from error


def _as_plain(item: object) -> object:
    """Convert other mappings and sequences to the dicts and lists that msgpack supports."""
    match item:
        case Mapping():
            return dict(item)
        case Sequence() if not isinstance(item, memoryview):
            return list(item)
        case _:
            raise TypeError(type(item).__name__)


def _walk(packer: msgpack.Packer, value: object, depth: int) -> Iterator[Piece]:
    """Fill `packer`, and flush it before it holds much more than a piece.

    Large lists and dicts, and small ones with items that may be large, are encoded item by item. Small items of large
    collections go to msgpack whole, which is ten times as fast.
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
        if isinstance(item, str) and len(item) > LARGE_TEXT_CHARS:
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


def _find_problem(value: object, place: str, depth: int) -> str:
    """An error message that names the first part of a value that is not plain data; empty if all parts are."""
    if depth > MAX_DEPTH:
        return f"The context is invalid: its lists and dicts are nested more than {MAX_DEPTH} levels deep."
    match value:
        case None | str() | bytes() | bytearray() | float():
            return ""
        case int():
            if -(1 << 63) <= value < 1 << 64:
                return ""
            problem = "an int of more than 64 bits: pass it as text"
        case Mapping():
            for key, item in value.items():
                if not _is_key(key):
                    return f"The context is invalid: {place} has a key of type {type(key).__name__}."
                problem = _find_problem(key, f"a key of {place}", depth + 1)
                if problem := problem or _find_problem(item, f"{place}[{key!r}]", depth + 1):
                    return problem
            return ""
        case Sequence():
            problems = (_find_problem(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value))
            return next(filter(None, problems), "")
        case _:
            problem = f"of type {type(value).__name__}: use text, bytes, numbers, None, lists and dicts"
    return f"The context is invalid: {place} is {problem}."


def _rechunk(parts: Iterable[Piece]) -> Iterator[Piece]:
    """Join or split the same bytes into pieces of `CHUNK_BYTES`."""
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
            raise ConfigError(f"The context {path} is neither a regular file nor a folder.")
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(path, error) from error
    return Value(kind="file", size=status.st_size, pieces=lambda: _read(path, status.st_size))


def _unreadable(path: Path | str, error: OSError) -> ConfigError:
    return ConfigError(f"Cannot read the context {path}: {error.strerror}.")


def _read(path: Path, size: int) -> Iterator[bytes]:
    """Read exactly `size` bytes of a file, which is the size that the guest expects."""
    try:
        with path.open("rb", buffering=0) as file:
            remaining = size
            while remaining:
                piece = file.read(min(remaining, CHUNK_BYTES))
                if not piece:
                    raise ConfigError(f"The file {path} shrank during reading: try again.")
                remaining -= len(piece)
                yield piece
    except OSError as error:
        raise _unreadable(path, error) from error


def _folder(path: Path) -> Value:
    """Encode a folder as a map of relative path to content. Only regular files: links could lead out of the folder."""
    try:
        files = sorted(_files(path))
    except OSError as error:
        raise _unreadable(error.filename, error) from error
    for name, size in files:
        if size > MAX_FILE_BYTES:
            raise ConfigError(
                f"The file {path / name} has {size:,} bytes, more than the limit of {MAX_FILE_BYTES:,} in a folder."
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
    return Value(kind="folder", size=size, pieces=lambda: _rechunk(parts()))


def _files(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the relative path and the size of each regular file."""

    def fail(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(path, onerror=fail):
        for name in names:
            file = Path(parent, name)
            status = file.lstat()
            if stat.S_ISREG(status.st_mode):
                yield file.relative_to(path).as_posix(), status.st_size
