"""Plain data from a sandbox (numbers, text, bytes, None, lists, dicts), encoded as msgpack without maps.

msgpack's decoder interns map keys, and Python 3.12 never frees an interned string. Map keys would let a sandbox fill the
host's memory, so a dict travels as an array. Standard library and msgpack only.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

_LIST: Final = 0
_DICT: Final = 1


def pack_plain(value: object) -> bytes:
    """Encode plain data: a list as `[0, item, ...]`, a dict as `[1, key, value, ...]`.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: The value is not plain data, or nested too deeply.
    """
    data: bytes = msgpack.packb(_tag(value), unicode_errors="surrogatepass")
    return data


def unpack_plain(data: bytes) -> Any:
    """Decode untrusted bytes as plain data. The result can take 50 times as much memory.

    Raises:
        ValueError: The bytes are not plain data.
    """
    try:
        return msgpack.unpackb(
            data,
            list_hook=_untag,
            object_hook=_reject,
            max_map_len=0,
            max_ext_len=0,
            ext_hook=_reject,
            unicode_errors="surrogatepass",
        )
    except Exception as error:  # msgpack documents no closed set of errors for hostile input
        raise ValueError("not plain data") from error


def _tag(value: object) -> object:
    if isinstance(value, dict):
        return [_DICT, *(_tag(part) for item in value.items() for part in item)]
    if isinstance(value, list | tuple):
        return [_LIST, *map(_tag, value)]
    return value


def _untag(items: list[Any]) -> object:
    tag, *rest = items
    if tag == _LIST:
        return rest
    if tag == _DICT:
        return dict(zip(rest[::2], rest[1::2], strict=True))
    raise ValueError("an array is neither a list nor a dict")


def _reject(*_: object) -> object:
    raise ValueError("maps and extensions are not allowed")
