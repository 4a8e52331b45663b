"""The values that a sandbox is given, and those that it gives, in the encodings of the channel."""

from __future__ import annotations

import contextlib
import functools
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack

from rlm.protocol.messages import ContextKind, Kind, Payload
from rlm.protocol.plain import pack_plain

from .link import descriptor_of


@contextlib.contextmanager
def _buffer(payload: Payload, descriptors: Sequence[int]) -> Iterator[memoryview]:
    """The bytes of a value where they are, without a copy."""
    if isinstance(payload, bytes):
        yield memoryview(payload)
        return
    with (
        mmap.mmap(descriptor_of(payload, descriptors), payload.size, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        yield view


def decode(kind: Kind, payload: Payload, descriptors: Sequence[int]) -> Any:
    """The Python value.

    Raises:
        ValueError: the bytes are not what `kind` says.
        MemoryError: there is no room for it.
    """
    with _buffer(payload, descriptors) as view:
        match kind:
            case "text":
                return str(view, "utf-8", "surrogatepass")
            case "bytes":
                return bytes(view)
            case "file":
                return _text_or_bytes(view)
            case "data" | "tools":
                return unpacked(view)
            case "folder":
                return {name: _text_or_bytes(content) for name, content in unpacked(view).items()}


def _text_or_bytes(content: memoryview | bytes) -> str | bytes:
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError:
        return bytes(content)


def unpacked(view: memoryview | bytes) -> Any:
    """One msgpack value of the host."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=0,  # the host has bounded the size; memory bounds it here
        strict_map_key=False,
        unicode_errors="surrogatepass",
        max_str_len=2**32 - 1,
        max_bin_len=2**32 - 1,
        max_array_len=2**32 - 1,
        max_map_len=2**32 - 1,
        max_ext_len=0,
    )
    for start in range(0, len(view), _FEED_BYTES):
        unpacker.feed(view[start : start + _FEED_BYTES])
    return unpacker.unpack()


_FEED_BYTES = 16 << 20


def encode(value: object) -> tuple[ContextKind, bytes]:
    """A context for a recursive call.

    Raises:
        TypeError: it is not text, bytes, or plain data.
    """
    match value:
        case str():
            return "text", encode_text(value)
        case bytes() | bytearray():
            return "bytes", bytes(value)
        case _:
            return "data", packed(value)


def encode_text(text: str) -> bytes:
    """Text as it leaves the sandbox. A subclass of `str` may have an `encode` of its own, so that is not asked."""
    return str.encode(text, "utf-8", "surrogatepass")


def check_size(size: int, most: int) -> None:
    """Raises ValueError for more bytes than the host takes at once."""
    if size > most:
        raise ValueError(f"{size:,} bytes are too many: at most {most:,} can leave the sandbox at once")


def packed(value: object) -> bytes:
    """Plain data as msgpack, for another sandbox. Raises TypeError for anything else."""
    return _packed(functools.partial(msgpack.packb, unicode_errors="surrogatepass"), value)


def packed_for_host(value: object) -> bytes:
    """Plain data that the host itself decodes. Raises TypeError for anything else."""
    return _packed(pack_plain, value)


def _packed(pack: Callable[[object], bytes], value: object) -> bytes:
    try:
        return pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(
            f"what leaves the sandbox has to be text, bytes, or lists and dicts of plain data (numbers, text, None): {error}"
        ) from None


def as_text(value: object) -> str:
    """A context as a part of a prompt: text as it is, plain data as JSON, anything else as Python shows it."""
    if isinstance(value, str):
        return value
    import json

    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)
