"""Encodes Python values for a sandbox, piece by piece so that large values are never copied.

Pure, except for reading the files of a `Path`.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import msgpack

from rlm.errors import ConfigError
from rlm.protocol.messages import CHUNK_BYTES, KIB, Kind
from rlm.types import Context

from .decoding import Decoding, decoded, describe, find_decoding, invalid_bytes

SLICE_CHARS: Final = CHUNK_BYTES // 4  # a character takes at most four bytes in UTF-8
MAX_DEPTH: Final = 400  # nesting of lists and dicts; msgpack itself stops at 511
MAX_FILE_BYTES: Final = (1 << 32) - 1  # msgpack's limit for text or bytes, so also for a file in a folder
LARGE_TEXT_CHARS: Final = 64 * KIB  # longer texts are encoded in slices
PAGE_BYTES: Final = 1 << 16  # a page of the largest kind: the files of /sys announce one page, whatever they hold
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
        source: The file or folder that gives the same bytes again; None if there is none.
        notes: What was left out or changed to read the value, in sentences without words from its content.
    """

    kind: Kind
    size: int
    pieces: Callable[[], Iterator[Piece]]
    source: Path | None = None
    notes: tuple[str, ...] = ()


def encode(context: Context | Value, *, max_bytes: int | None = None) -> Value:
    """Encode a context.

    Args:
        context: Text, bytes, plain data, the path of a file or folder, or a value that is encoded already.
        max_bytes: Limit on the encoded size, and on that of files as they are. None means no limit.

    Raises:
        ConfigError: The context is not plain data, is unreadable, or exceeds `max_bytes`.
    """
    match context:
        case Value():
            value = context
        case str():
            value = Value(kind="text", size=_utf8_size(context), pieces=lambda: _slices(context))
        case bytes() | bytearray() | memoryview():
            value = opaque("bytes", bytes(context))
        case Path():
            value = (_folder if _is_folder(context) else _file)(context, max_bytes=max_bytes)
        case Mapping() | Sequence():
            size = sum(map(len, _pack(context)))
            value = Value(kind="data", size=size, pieces=lambda: _rechunk(_pack(context)))
        case _:
            raise ConfigError(
                f"Unsupported context type {type(context).__name__}: "
                "pass text, bytes, a Path, or a list or dict of plain data."
            )
    if max_bytes is not None and value.size > max_bytes:
        raise _too_large(value.size, max_bytes)
    return value


async def read(context: Context | Value, *, max_bytes: int | None) -> Value:
    """Encode a context; read files in a thread. Raises what `encode` does."""
    if not isinstance(context, Path):
        return encode(context, max_bytes=max_bytes)
    return await anyio.to_thread.run_sync(partial(encode, context, max_bytes=max_bytes), abandon_on_cancel=True)


def encode_piped(data: bytes, subject: str) -> Value:
    """Encode data from a pipe: as text if it is text, as `encode` does for a file. `subject` names it in the notes."""
    decoding = find_decoding(lambda: map(bytes, _views(data)))
    if decoding.encoding is None:
        return replace(opaque("bytes", data), notes=describe(decoding, subject))
    return Value(
        kind="text",
        size=decoding.size,
        pieces=lambda: _rechunk(decoded(map(bytes, _views(data)), decoding)),
        notes=describe(decoding, subject),
    )


def _too_large(size: int, max_bytes: int) -> ConfigError:
    return ConfigError(
        f"The context has {size:,} bytes, more than the limit of {max_bytes:,}: "
        "raise max_context_bytes, or pass a smaller context."
    )


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


def encode_raw(path: Path) -> Value:
    """Encode a file or folder byte by byte, without decoding its texts.

    Raises:
        ConfigError: the path is unreadable, or changes size while it is read.
    """
    return _folder(path, max_bytes=None, raw=True) if _is_folder(path) else _file(path, max_bytes=None, raw=True)


def encode_again(path: Path, kind: str) -> Value:
    """Encode a path as in an earlier run, in which its value had this kind. Raises what `encode` does."""
    return encode_raw(path) if kind in ("file", "folder") else encode(path)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # a zero byte
        raise ConfigError(f"Cannot read the context {str(path)!r}: {error}.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A readable file: its bytes as they can be read again and again, and how they are decoded.

    Attributes:
        size: number of bytes.
        content: these bytes, of a file that may give others the next time; None to read the file again.
    """

    path: Path
    size: int
    content: bytes | None = None
    decoding: Decoding | None = None

    def chunks(self) -> Iterator[bytes]:
        return _read(self.path, self.size) if self.content is None else map(bytes, _views(self.content))

    @property
    def is_plain(self) -> bool:
        return self.decoding is None or self.decoding.is_plain

    @property
    def is_text(self) -> bool:
        return self.decoding is not None and self.decoding.encoding is not None

    @property
    def decoded_size(self) -> int:
        return self.size if self.decoding is None else self.decoding.size

    def decoded(self) -> Iterator[bytes]:
        if self.decoding is None or self.decoding.is_plain:
            return self.chunks()
        return decoded(self.chunks(), self.decoding)


def _open_file(path: Path, status: os.stat_result, *, max_bytes: int | None, raw: bool) -> _File:
    """Examine a regular file. Raises OSError if it is unreadable."""
    size = status.st_size
    if max_bytes is not None and size > max_bytes:
        raise _too_large(size, max_bytes)
    content = _content(path, size, max_bytes)
    # The files of /proc announce 0 bytes and those of /sys a page. They may give others the next time, so they are kept.
    kept = content if content is not None and len(content) != size else None
    file = _File(path=path, size=size if kept is None else len(kept), content=kept)
    return (
        file if raw else replace(file, decoding=find_decoding(file.chunks if content is None else lambda: (content,)))
    )


def _content(path: Path, size: int, max_bytes: int | None) -> bytes | None:
    """The content of a file that announces at most `PAGE_BYTES`; None for larger ones. A growing file ends at `size`."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        if size > PAGE_BYTES:
            return None
        content = bytearray()
        # Not blocking, a file that has nothing to read yet, such as /proc/kmsg, gives None.
        while (size == 0 or len(content) < size) and (piece := file.read(size - len(content) if size else CHUNK_BYTES)):
            content += piece
            if max_bytes is not None and len(content) > max_bytes:
                raise _too_large(len(content), max_bytes)
        return bytes(content)


def _file(path: Path, *, max_bytes: int | None, raw: bool = False) -> Value:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(
                f"The context {path} is neither a regular file nor a folder but {_special(status.st_mode)}: "
                "save its data to a file, or pass the data itself."
            )
        file = _open_file(path, status, max_bytes=max_bytes, raw=raw)
    except OSError as error:
        raise _unreadable(path, error) from error
    notes = () if file.decoding is None else describe(file.decoding, "The file")
    if file.content is None and file.is_plain:
        return Value(kind="file", size=file.size, pieces=file.chunks, source=path, notes=notes)
    return Value(
        kind="text" if file.is_text else "bytes",
        size=file.decoded_size,
        pieces=lambda: _rechunk(file.decoded()),
        source=path if file.content is None else None,
        notes=notes,
    )


def _special(mode: int) -> str:
    kinds = (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "a special file")


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


def _folder(path: Path, *, max_bytes: int | None, raw: bool = False) -> Value:
    """Encode a folder as a map of relative path to content. Only regular files: links could lead out of the folder."""
    left_out: Counter[str] = Counter()
    files: dict[str, _File] = {}
    total = 0
    for name, status in sorted(_regular_files(path, left_out)):
        try:
            file = _open_file(path / name, status, max_bytes=max_bytes, raw=raw)
        except OSError:
            left_out["unreadable file"] += 1
            continue
        if file.decoded_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"The file {path / name} has {file.size:,} bytes, more than the limit of {MAX_FILE_BYTES:,} in a folder."
            )
        files[name] = file
        total += file.size
        if max_bytes is not None and total > max_bytes:
            raise _too_large(total, max_bytes)
    omission = _left_out(left_out)
    if not files and omission and not raw:
        hint = " Links are not followed: pass the folder that they point to." if left_out["symbolic link"] else ""
        raise ConfigError(f"The folder {path} contains no files to read: {omission}.{hint}")
    plain = raw or all(file.is_plain and file.content is None for file in files.values())

    def header(file: _File) -> bytes:
        # Plain files are bin 32 of msgpack, and the guest decodes them; otherwise texts are str 32.
        code = b"\xc6" if plain or not file.is_text else b"\xdb"
        return code + file.decoded_size.to_bytes(4, "big")

    def headers() -> Iterator[bytes]:
        packer = msgpack.Packer(unicode_errors="surrogatepass")
        yield packer.pack_map_header(len(files))
        for name, file in files.items():
            yield packer.pack(name) + header(file)

    def parts() -> Iterator[Piece]:
        start, *entries = headers()
        yield start
        for entry, file in zip(entries, files.values(), strict=True):
            yield entry
            yield from file.decoded()

    return Value(
        kind="folder" if plain else "data",
        size=sum(map(len, headers())) + sum(file.decoded_size for file in files.values()),
        pieces=lambda: _rechunk(parts()),
        source=path if all(file.content is None for file in files.values()) else None,
        notes=() if raw else _folder_notes(files.values(), omission),
    )


def _regular_files(path: Path, left_out: Counter[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the relative path and the state of each regular file, and count everything else by kind."""

    def fail(error: OSError) -> None:
        if error.filename == str(path):
            raise _unreadable(path, error) from error
        left_out["unreadable folder"] += 1

    for parent, folders, names in os.walk(path, onerror=fail):
        left_out["symbolic link"] += sum(Path(parent, name).is_symlink() for name in folders)
        for name in names:
            file = Path(parent, name)
            try:
                status = file.lstat()
            except OSError:  # removed meanwhile, or in a folder whose files cannot be examined
                left_out["unreadable file"] += 1
                continue
            if stat.S_ISREG(status.st_mode):
                yield file.relative_to(path).as_posix(), status
            else:
                left_out["symbolic link" if stat.S_ISLNK(status.st_mode) else "special file"] += 1


def _left_out(left_out: Mapping[str, int]) -> str:
    """What a folder's value lacks, as a clause; empty if it lacks nothing."""
    parts = [f"{count:,} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(left_out.items()) if count]
    if not parts:
        return ""
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return f"{listed} {'was' if sum(left_out.values()) == 1 else 'were'} left out"


def _folder_notes(files: Collection[_File], omission: str) -> tuple[str, ...]:
    """What was done to read a folder's files, without their names: these come from whoever made the folder."""
    notes = [f"{omission}."] if omission else []
    if not files and not omission:
        notes.append("The folder is empty.")
    decodings = [file.decoding for file in files if file.decoding is not None]
    utf8 = [each for each in decodings if each.encoding == "utf-8"]
    if invalid := [each for each in utf8 if each.invalid]:
        shown = invalid_bytes(sum(each.invalid for each in invalid), invalid[0].example)
        notes.append(f"{_files(invalid)} {_verb(invalid)} decoded as UTF-8; {shown}.")
    if marked := [each for each in utf8 if each.bom]:
        notes.append(
            f"The byte order mark{'s' if len(marked) > 1 else ''} of {_files(marked)} {_verb(marked)} removed."
        )
    if wide := [each for each in decodings if each.encoding not in (None, "utf-8")]:
        notes.append(f"{_files(wide)} {_verb(wide)} decoded from UTF-16 or UTF-32.")
    if eight_bit := [each for each in decodings if each.eight_bit]:
        are = "is" if len(eight_bit) == 1 else "are"
        notes.append(f"{_files(eight_bit)} {are} not UTF-8 and may be text in an 8-bit encoding such as Latin-1.")
    return tuple(notes)


def _files(files: Sequence[object]) -> str:
    return "1 file" if len(files) == 1 else f"{len(files):,} files"


def _verb(files: Sequence[object]) -> str:
    return "was" if len(files) == 1 else "were"
