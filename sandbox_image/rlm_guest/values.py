"""Encodes and decodes values between the REPL and the channel."""

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
    """The bytes of a value, without a copy."""
    if isinstance(payload, bytes):
        yield memoryview(payload)
        return
    with (
        mmap.mmap(descriptor_of(payload, descriptors), payload.size, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        yield view


def decode(kind: Kind, payload: Payload, descriptors: Sequence[int]) -> Any:
    """Decode a value.

    Raises:
        ValueError: The bytes do not match `kind`.
        MemoryError: Memory cannot hold the value.
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
    """Decode one msgpack value from the host."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=0,  # unlimited: the host limits the size, and the sandbox's memory limits it here
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
    """Encode a context for a recursive call.

    Raises:
        TypeError: The value is not text, bytes, or plain data.
    """
    match value:
        case str():
            return "text", encode_text(value)
        case bytes() | bytearray():
            return "bytes", bytes(value)
        case _:
            return "data", packed(value)


def encode_text(text: str) -> bytes:
    """Encode text that leaves the sandbox. Bypasses an `encode` method of a subclass of `str`."""
    return str.encode(text, "utf-8", "surrogatepass")


def check_size(size: int, limit: int) -> None:
    """Raise ValueError for more bytes than the host accepts at once."""
    if size > limit:
        raise ValueError(f"{size:,} bytes are too many: at most {limit:,} can leave the sandbox at once")


def packed(value: object) -> bytes:
    """Encode plain data as msgpack, for another sandbox. Raises TypeError for anything else."""
    return _packed(functools.partial(msgpack.packb, unicode_errors="surrogatepass"), value)


def packed_for_host(value: object) -> bytes:
    """Encode plain data that the host itself decodes. Raises TypeError for anything else."""
    return _packed(pack_plain, value)


def _packed(pack: Callable[[object], bytes], value: object) -> bytes:
    try:
        return pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(
            f"only text, bytes, or lists and dicts of plain data (numbers, text, None) can leave the sandbox: {error}"
        ) from None


def as_text(value: object) -> str:
    """Render a context for a prompt: text unchanged, plain data as JSON, anything else as its `repr`."""
    if isinstance(value, str):
        return value
    import json

    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)
