"""Plain data from a sandbox is decoded completely or rejected, and leaves nothing in memory."""

import sys
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.protocol.plain import pack_plain, unpack_plain

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-9, 9), inner),
)


@given(plain)
def test_plain_data_survives_the_wire(value: Any) -> None:
    again = unpack_plain(pack_plain(value))
    assert (again, repr(again)) == (value, repr(value))


def test_halves_of_characters_survive_and_tuples_are_lists() -> None:
    assert unpack_plain(pack_plain({"\ud800": (1, ("a",))})) == {"\ud800": [1, ["a"]]}


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        unpack_plain(data)
    except ValueError:
        return


@pytest.mark.parametrize(
    "value",
    [
        [],
        [2, 1],
        [True, 1],
        [1, "key"],
        [1, [0], 1],
        ["a"],
        {},
        {"a": 1},
        [0, {}],
        msgpack.ExtType(1, b""),
        [0, [0, []]],
    ],
    ids=repr,
)
def test_an_untagged_array_a_map_or_an_extension_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not plain data"):
        unpack_plain(msgpack.packb(value))


@pytest.mark.parametrize("value", [object(), 1 << 70, {1, 2}, [[[object()]]]], ids=["object", "large", "set", "nested"])
def test_a_value_that_is_not_plain_data_is_not_packed(value: object) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        pack_plain(value)


def test_a_value_that_contains_itself_is_not_packed() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises((RecursionError, ValueError)):
        pack_plain(endless)


def test_no_key_of_a_sandbox_stays_in_the_hosts_memory() -> None:
    """`sys.intern` would return an interned string itself."""
    (key,) = unpack_plain(pack_plain({"a key that nobody else has": 1}))
    assert sys.intern("".join(["a key that ", "nobody else has"])) is not key


def tree(leaf: bytes, branch: bytes, depth: int) -> bytes:
    return leaf if depth == 0 else branch + tree(leaf, branch, depth - 1) * 2


@pytest.mark.parametrize(
    "body",
    [
        tree(b"\x91\x00", b"\x93\x00", 14),
        tree(b"\x91\x01", b"\x93\x00", 14),
        tree(b"\x95\x01\x01\x01\x02\x02", b"\x93\x00", 13),
        b"\xdd\x00\x01\x00\x01\x00" + b"\xa2\xc4\x80" * 65536,
        b"\xdd\x00\x01\x00\x01\x00" + b"\x91\x01" * 65536,
        b"\xdd\x00\x01\x00\x01\x01" + b"\xa2\xc4\x80\x91\x01" * 32768,
    ],
    ids=lambda body: f"{body[:8].hex()}",
)
def test_decoding_takes_no_more_memory_than_declared(body: bytes) -> None:
    tracemalloc.start()
    try:
        unpack_plain(body)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(body)
    finally:
        tracemalloc.stop()
