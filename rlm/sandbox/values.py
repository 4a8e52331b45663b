"""Python values as bytes for a sandbox: described by kind, produced piece by piece so that large ones are never copied.

Pure, but for reading the files of a `Path`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack

from rlm.errors import ConfigError
from rlm.protocol.messages import CHUNK_BYTES, Kind
from rlm.types import Context

SLICE_CHARS: Final = CHUNK_BYTES // 4  # no character takes more than four bytes in UTF-8

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
        case bytes():
            value = Value(kind="bytes", size=len(context), pieces=lambda: _views(context))
        case Path():
            value = _folder(context) if context.is_dir() else _file(context)
        case Mapping() | Sequence():
            value = Value(kind="data", size=sum(map(len, _packed(context))), pieces=lambda: _regular(_packed(context)))
        case _:
            raise ConfigError(
                f"A context cannot be a {type(context).__name__}: give text, bytes, a list or dict of plain data, or a Path."
            )
    if max_bytes is not None and value.size > max_bytes:
        raise ConfigError(
            f"The context has {value.size:,} bytes and the limit is {max_bytes:,}: "
            f"raise it with Limits(max_context_bytes=...), or give less."
        )
    return value


def opaque(kind: Kind, data: bytes) -> Value:
    """A value that is encoded already, such as one that came from a sandbox."""
    return Value(kind=kind, size=len(data), pieces=lambda: _views(data))


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


# Plain data: the outermost list or dict is encoded item by item, so that only one item's encoding is held at a time.


def _packed(value: Mapping[object, object] | Sequence[object]) -> Iterator[bytes]:
    packer = msgpack.Packer(unicode_errors="surrogatepass")
    if isinstance(value, Mapping):
        yield packer.pack_map_header(len(value))
        items: Iterable[object] = (part for entry in value.items() for part in entry)
    else:
        yield packer.pack_array_header(len(value))
        items = value
    for item in items:
        if type(item) is str and len(item) > CHUNK_BYTES:
            yield b"\xdb" + _utf8_size(item).to_bytes(4, "big")  # msgpack's str 32
            yield from _slices(item)
            continue
        try:
            yield packer.pack(item)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                "The context cannot be sent to a sandbox, which takes text, bytes, numbers of up to 64 bits, None, lists "
                f"and dicts: {error}."
            ) from error


def _regular(parts: Iterable[bytes]) -> Iterator[Piece]:
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
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"The context {path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"The context {path} is neither a file nor a folder.")
    return Value(kind="file", size=status.st_size, pieces=lambda: _read(path, status.st_size))


def _read(path: Path, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes of a file, as were announced."""
    try:
        with path.open("rb") as file:
            left = size
            while left:
                piece = file.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise ConfigError(f"The file {path} became shorter while it was read: run again.")
                left -= len(piece)
                yield piece
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be read: {error.strerror}.") from error


def _folder(path: Path) -> Value:
    """Regular files only; links are not followed, as they could lead out of the folder."""
    files = []
    for parent, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(parent, name)
            status = file.lstat()
            if stat.S_ISREG(status.st_mode):
                files.append((file.relative_to(path).as_posix(), file, status.st_size))
    packer = msgpack.Packer(unicode_errors="surrogateescape")

    def parts() -> Iterator[bytes]:
        yield packer.pack_map_header(len(files))
        for name, file, size in files:
            yield packer.pack(name)
            yield b"\xc6" + size.to_bytes(4, "big")  # msgpack's bin 32
            yield from _read(file, size)

    headers = sum(len(packer.pack(name)) + 5 for name, _, _ in files) + len(packer.pack_map_header(len(files)))
    return Value(kind="folder", size=headers + sum(size for _, _, size in files), pieces=lambda: _regular(parts()))
