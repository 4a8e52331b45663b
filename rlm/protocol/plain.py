"""Plain data that a sandbox sends: numbers, text, bytes, None, lists and dicts, as msgpack without maps.

A decoder of msgpack interns the keys of a map, and Python 3.12 keeps an interned string for as long as the process lives: a
sandbox could fill the host's memory with keys. So a dict travels as an array too. Standard library and msgpack only.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

_LIST: Final = 0
_DICT: Final = 1


def pack_plain(value: object) -> bytes:
    """The bytes of plain data: a list is `[0, item, ...]`, a dict `[1, key, value, ...]`.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: it is not plain data, or nested too deeply.
    """
    data: bytes = msgpack.packb(_tagged(value), unicode_errors="surrogatepass")
    return data


def unpack_plain(data: bytes) -> Any:
    """The plain data in hostile bytes. Decoded, they may take 50 times as much memory.

    Raises:
        ValueError: they are something else.
    """
    try:
        return msgpack.unpackb(
            data,
            list_hook=_untagged,
            object_hook=_refused,
            max_map_len=0,
            max_ext_len=0,
            ext_hook=_refused,
            unicode_errors="surrogatepass",
        )
    except Exception as error:  # msgpack documents no closed set of errors for hostile input
        raise ValueError("no plain data") from error


def _tagged(value: object) -> object:
    if isinstance(value, dict):
        return [_DICT, *(_tagged(part) for item in value.items() for part in item)]
    if isinstance(value, list | tuple):
        return [_LIST, *map(_tagged, value)]
    return value


def _untagged(items: list[Any]) -> object:
    tag, *rest = items
    if tag == _LIST:
        return rest
    if tag == _DICT:
        return dict(zip(rest[::2], rest[1::2], strict=True))
    raise ValueError("an array that is neither a list nor a dict")


def _refused(*_: object) -> object:
    raise ValueError("a map or an extension")
