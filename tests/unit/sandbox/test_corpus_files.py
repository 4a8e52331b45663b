"""Each file and folder of tests/corpus/files arrives in a sandbox as its entry says, with a note on what was done."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgpack
import pytest

from rlm.errors import ConfigError
from rlm.sandbox.values import Value, encode, encode_again, encode_piped

CORPUS = Path(__file__).parents[2] / "corpus/files"


def unescaped(text: str) -> str:
    return text.encode("latin-1").decode("unicode_escape")


def content(parts: list[tuple[str, int]]) -> bytes:
    return b"".join(unescaped(part).encode("latin-1") * times for part, times in parts)


def arrived(value: Value) -> Any:
    """What the sandbox binds to a variable."""
    data = b"".join(map(bytes, value.pieces()))
    assert len(data) == value.size
    match value.kind:
        case "text":
            return data.decode()
        case "file":
            return text_or_bytes(data)
        case "folder":
            return {name: text_or_bytes(content) for name, content in msgpack.unpackb(data).items()}
        case "data":
            return msgpack.unpackb(data)
    return data


def text_or_bytes(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def checked(found: object, expect: dict[str, Any]) -> None:
    assert type(found).__name__ == expect["type"]
    if "text" in expect:
        assert found == unescaped(expect["text"])
    if "ends" in expect:
        assert str(found).endswith(unescaped(expect["ends"]))
    if "contains" in expect:
        assert unescaped(expect["contains"]) in str(found)


@pytest.mark.parametrize("entry", sorted(CORPUS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_file_arrives_as_its_entry_says(entry: Path, tmp_path: Path) -> None:
    case = tomllib.loads(entry.read_text("utf-8"))
    expect = case["expect"]
    path = tmp_path / "context"
    if "folder" in case:
        path.mkdir()
        for name, parts in case["folder"].items():
            (path / name).write_bytes(content(parts))
        for name in case.get("links", ()):
            (path / name).symlink_to("/etc/passwd")
    else:
        path.write_bytes(content(case["file"]))
    if "error" in expect:
        with pytest.raises(ConfigError) as refused:
            encode(path)
        assert expect["error"] in str(refused.value)
        return
    value = encode(path)
    found = arrived(value)
    assert (list(value.notes), value.source) == (expect["notes"], path)
    assert arrived(encode_again(path, value.kind)) == found  # as a resumed run reads it
    if isinstance(found, dict):
        assert list(found) == list(expect["items"])
        for name, text in expect["items"].items():
            assert found[name] == (unescaped(text) or content(case["folder"][name]))
        return
    checked(found, expect)
    if isinstance(found, bytes):
        assert found == path.read_bytes()
    piped = encode_piped(path.read_bytes(), "The file")
    assert (arrived(piped), piped.notes) == (found, value.notes)
