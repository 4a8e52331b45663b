"""A value arrives in a sandbox unchanged."""

from __future__ import annotations

import os
import tracemalloc
from collections import OrderedDict, UserList
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.errors import ConfigError
from rlm.protocol.messages import CHUNK_BYTES
from rlm.sandbox import values
from rlm.sandbox.decoding import decode_text, decoded
from rlm.sandbox.values import Value, encode, head_and_tail

TEXTS = st.text(st.characters(exclude_categories=()))  # includes lone surrogates, NUL and all kinds of line ends
KEYS = TEXTS | st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.none() | st.floats(allow_nan=False)
LEAVES = KEYS | st.binary()
DATA = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=30)


def arrived(value: Value) -> Any:
    """The value that a sandbox builds from exactly the announced bytes."""
    pieces = [bytes(piece) for piece in value.pieces()]
    assert all(0 < len(piece) <= CHUNK_BYTES for piece in pieces)
    data = b"".join(pieces)
    assert len(data) == value.size
    assert b"".join(map(bytes, value.pieces())) == data  # a value can be sent again to a new sandbox
    match value.kind:
        case "text":
            return data.decode("utf-8", "surrogatepass")
        case "bytes" | "file":
            return data
        case "data" | "folder":
            return msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")


@given(st.text(), st.integers(4, 40))
def test_head_and_tail_of_a_text_have_no_broken_characters(text: str, size: int) -> None:
    head, tail = head_and_tail(encode(text), size)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert min(len(text), size // 4) <= len(head) <= size
    assert min(len(text), size // 4) <= len(tail) <= size
    assert head_and_tail(encode([text]), size) == ("", "")


@given(TEXTS)
def test_text_arrives_unchanged(text: str) -> None:
    assert arrived(encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "line\r\nline\rline\n\0end\n",
        "\ud800 and \udfff alone, \ud83d\ude00 as a pair of surrogates",
        "a" * (3 * CHUNK_BYTES + 1),
        "äöü€😀" * CHUNK_BYTES,
        "a" * CHUNK_BYTES + "\U0001f600",
    ],
    ids=["empty", "line ends", "surrogates", "ascii", "wide", "wide at the end"],
)
def test_text_of_every_kind_arrives_unchanged(text: str) -> None:
    assert arrived(encode(text)) == text


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_bytes_arrive_unchanged(kind: Callable[[bytes], bytes], size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    value = encode(kind(data))
    assert (value.kind, arrived(value)) == ("bytes", data)


@given(st.lists(DATA) | st.dictionaries(KEYS, DATA))
def test_plain_data_arrives_equal(data: Any) -> None:
    assert arrived(encode(data)) == data


@given(st.lists(DATA) | st.dictionaries(KEYS, DATA))
def test_plain_data_arrives_equal_whatever_counts_as_large(data: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "LARGE_TEXT_CHARS", 2)
        patch.setattr(values, "LARGE_ITEMS", 2)
        assert arrived(encode(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        {1: "one", -5: "minus", 2**64 - 1: "max"},
        {"documents": [{"id": i, "text": "€" * 300} for i in range(5000)]},
        {"a": {"b": {"c": [["x" * 100_000, b"y" * 100_000] * 3, {}, []]}}},
        ["line\r\n\0\ud800"] * 100_000,
        list(range(300_000)),
        ["x" * (CHUNK_BYTES + 5)] * 3,
        [[0.5, float("inf"), None, True]],
        [[[[[[[[[[]]]]]]]]]],
    ],
    ids=["int keys", "rows", "nested", "many texts", "numbers", "large texts", "scalars", "deep"],
)
def test_large_and_nested_data_arrives_equal(data: Any) -> None:
    assert arrived(encode(data)) == data


def test_tuples_arrive_as_lists_and_other_sequences_and_mappings_as_lists_and_dicts() -> None:
    assert arrived(encode((1, (2, [(3,)])))) == [1, [2, [[3]]]]
    assert arrived(encode(range(3))) == [0, 1, 2]
    assert arrived(encode([UserList([1]), MappingProxyType({"a": OrderedDict(b=1)})])) == [[1], {"a": {"b": 1}}]
    assert arrived(encode(MappingProxyType({"a": 1}))) == {"a": 1}


class Opaque:
    pass


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Opaque(), "Opaque"),
        ({1, 2}, "set"),
        ({"rows": [1, {"when": datetime(2026, 1, 1, tzinfo=UTC)}]}, r"\['rows'\]\[1\]\['when'\] is of type datetime"),
        ([Opaque()], r"\[0\] is of type Opaque"),
        ([[1] * 1000, [{1, 2}] * 1000], r"\[1\]\[0\] is of type set"),
        ([2**64], r"\[0\] is an int of more than 64 bits"),
        ([-(2**63) - 1], "64 bits"),
        ({"n": {2**70: 1}}, "64 bits"),
        ({"n": {(1, 2): 3}}, r"\['n'\] has a key of type tuple"),
        ({frozenset(): 3}, "key of type frozenset"),
        ([complex(1, 2)], "complex"),
    ],
)
def test_a_value_that_is_not_plain_data_is_refused_and_named(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encode(data)


def test_data_that_contains_itself_is_refused() -> None:
    data: list[Any] = []
    data.append(data)
    with pytest.raises(ConfigError, match="levels"):
        encode(data)
    wide: list[Any] = [0] * 1000
    wide.append([wide])
    with pytest.raises(ConfigError, match="levels"):
        encode(wide)


def test_a_value_above_the_limit_is_refused_with_the_limit_and_how_to_raise_it() -> None:
    assert encode("x" * 1000, max_bytes=1000).size == 1000
    with pytest.raises(ConfigError, match=r"1,001 bytes.*1,000.*max_context_bytes"):
        encode("x" * 1001, max_bytes=1000)


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak memory that `work` allocated."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [
        "ascii text " * 2_000_000,
        "wide text € " * 1_000_000,
        {"deep": {"text": "x" * 20_000_000}},
        {"rows": ["some row of text " * 10] * 100_000},
        [{"row": number, "text": "t" * 100} for number in range(100_000)],
    ],
    ids=["ascii", "wide", "a text in dicts", "a list in a dict", "rows"],
)
def test_a_large_value_is_never_held_twice(value: Any) -> None:
    def send() -> None:
        for _ in encode(value).pieces():
            pass

    assert peak_bytes(send) < 8 * CHUNK_BYTES


# Files


def test_a_file_arrives_unchanged(tmp_path: Path) -> None:
    content = b"\xff\0\r\n" * CHUNK_BYTES
    file = tmp_path / "file.bin"
    file.write_bytes(content)
    value = encode(file)
    assert (value.kind, arrived(value)) == ("file", content)
    empty = tmp_path / "empty"
    empty.touch()
    assert arrived(encode(empty)) == b""


def test_a_folder_arrives_as_its_files_by_relative_path_in_order(tmp_path: Path) -> None:
    content = {"b.txt": b"1", "a/deep/er.txt": b"", "a.txt": b"x" * (CHUNK_BYTES + 1), "ü €/\udcff.bin": b"\xff"}
    for name, data in content.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "empty folder").mkdir()
    value = encode(tmp_path)
    assert value.kind == "folder"
    assert list(arrived(value).items()) == sorted(content.items())


def test_an_empty_folder_arrives(tmp_path: Path) -> None:
    assert arrived(encode(tmp_path)) == {}


def test_only_regular_files_of_a_folder_are_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    given = tmp_path / "given"
    given.mkdir()
    (given / "file").write_text("told")
    (given / "link").symlink_to(secret / "key")
    (given / "folder").symlink_to(secret)
    os.mkfifo(given / "pipe")
    assert arrived(encode(given)) == {"file": b"told"}


def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.*No such file"):
        encode(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="neither a regular file nor a folder"):
        encode(tmp_path / "pipe")


def test_a_growing_file_is_sent_up_to_its_announced_size(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before")
    value = encode(tmp_path)
    (tmp_path / "log").write_text("before and after")
    assert arrived(value) == {"log": b"before"}


@pytest.mark.parametrize("change", [lambda file: file.write_text("b"), lambda file: file.unlink()])
def test_a_file_that_shrinks_or_disappears_is_refused(tmp_path: Path, change: Callable[[Path], object]) -> None:
    (tmp_path / "log").write_text("before")
    for value in (encode(tmp_path), encode(tmp_path / "log")):
        (tmp_path / "log").write_text("before")
        change(tmp_path / "log")
        with pytest.raises(ConfigError):
            list(value.pieces())


def test_a_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as stream:
        stream.truncate(100 * CHUNK_BYTES)

    def send() -> None:
        for _ in encode(tmp_path).pieces():
            pass

    assert peak_bytes(send) < 8 * CHUNK_BYTES


@pytest.mark.parametrize("name", ["/proc/cpuinfo", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_a_file_that_announces_another_size_is_read_to_its_end(name: str) -> None:
    path = Path(name)
    if not path.exists():
        path = Path("/proc/self/limits")  # machines without /sys
    value = encode(path)
    assert value.size > 0
    assert value.size != path.stat().st_size
    assert value.source is None  # it may differ the next time, so it is stored
    assert arrived(value) == arrived(value)
    if name == "/proc/cpuinfo":
        assert "processor" in arrived(value)


def test_a_file_without_an_announced_size_is_read_up_to_the_limit() -> None:
    with pytest.raises(ConfigError, match="more than the limit of 100"):
        encode(Path("/proc/cpuinfo"), max_bytes=100)


def test_a_folder_of_files_without_an_announced_size(tmp_path: Path) -> None:
    value = encode(Path("/proc/self/net")) if Path("/proc/self/net/dev").exists() else encode(Path("/proc/sys/vm"))
    assert value.size > 100
    assert value.source is None
    assert arrived(value) == arrived(value)


def test_files_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    (tmp_path / "locked").mkdir()
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    opened, listed = os.open, os.scandir

    def closed(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    def locked(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "open", closed)
    monkeypatch.setattr(os, "scandir", locked)
    value = encode(tmp_path)
    assert arrived(value) == {"a": b"a", "c": b"c"}
    said = "1 special file, 1 symbolic link, 1 unreadable file and 1 unreadable folder were left out."
    assert value.notes == (said,)


def test_only_a_folder_without_any_entry_may_arrive_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="contains no files to read: 1 special file was left out"):
        encode(tmp_path)


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero"])
def test_a_device_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(ConfigError, match="but a device: save its data to a file"):
        encode(Path(name))


def test_a_path_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(ConfigError, match="null"):
        encode(Path("a\0b"))


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\xe9 "])
def test_a_large_text_is_decoded_piece_by_piece(tmp_path: Path, start: bytes) -> None:
    file = tmp_path / "large"
    file.write_bytes(start + "grüße €\n".encode() * 2_000_000)

    def send() -> None:
        for path in (file, tmp_path):
            for _ in encode(path).pieces():
                pass

    assert peak_bytes(send) < 12 * CHUNK_BYTES


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode), st.integers(1, 30))
def test_any_bytes_become_text_or_stay_as_they_are_however_they_are_cut(data: bytes, width: int) -> None:
    chunks = [data[start : start + width] for start in range(0, len(data), width)]
    text, decoding = decode_text(data)
    if text is None:
        assert not _is_utf8(data)
        return
    assert decoding.size == len(text.encode())
    assert b"".join(decoded(chunks, decoding)).decode() == text
    assert decoding.encoding != "utf-8" or decoding.bom or decoding.invalid or text.encode() == data


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
