"""File lists from a sandbox are untrusted, and its files are written only below one folder."""

import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.errors import ConfigError, SandboxMisbehaved
from rlm.protocol.plain import pack_plain
from rlm.sandbox.files import MAX_FILES, read_listing, write_below


def test_a_list_of_files_is_paths_and_sizes() -> None:
    found = read_listing(pack_plain([{"a/b": 3, "c": 0}, 7]))
    assert (found, found.skipped) == ({"a/b": 3, "c": 0}, 7)


@pytest.mark.parametrize(
    "listing",
    [
        *(
            [found, 0]
            for found in (
                list[object](),
                {"a": "3"},
                {"a": -1},
                {"a": True},
                {"../a": 1},
                {"/a": 1},
                {"a\n": 1},
                {1: 1},
            )
        ),
        *([{}, skipped] for skipped in (-1, "1", None, True)),
        *([[["a", 1]], 0], [{b"a": 1}, 0], [{}], {}, [], None),
    ],
)
def test_an_invalid_file_list_is_misbehaviour(listing: object) -> None:
    with pytest.raises(SandboxMisbehaved):
        read_listing(pack_plain(listing))


@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        read_listing(data)
    except SandboxMisbehaved:
        return


def test_a_list_that_would_take_much_memory_is_not_even_decoded() -> None:
    with pytest.raises(SandboxMisbehaved, match="too long"):
        read_listing(b"\xdd" + (1 << 22).to_bytes(4, "big") + b"\x80" * (1 << 22))


def test_more_files_than_were_asked_for_are_misbehaviour() -> None:
    assert len(read_listing(pack_plain([dict.fromkeys(map(str, range(MAX_FILES)), 0), 0]))) == MAX_FILES
    with pytest.raises(SandboxMisbehaved):
        read_listing(pack_plain([dict.fromkeys(map(str, range(MAX_FILES + 1)), 0), 0]))


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    written = write_below(tmp_path / "new", "a/b/c.txt", b"content")
    assert written == tmp_path / "new/a/b/c.txt"
    assert written.read_bytes() == b"content"
    assert write_below(tmp_path / "new", "a/d", b"").exists()


def test_no_link_is_followed_and_nothing_is_written_over(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "name").symlink_to(outside / "victim")
    (folder / "there").write_text("before")
    for path in ("link/file", "name", "there", "there/file"):
        with pytest.raises(ConfigError, match="choose another folder"):
            write_below(folder, path, b"evil")
    with pytest.raises(ConfigError, match="plain relative path"):
        write_below(folder, "../escape", b"evil")
    assert list(outside.iterdir()) == []
    assert (folder / "there").read_text() == "before"


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_file_that_does_not_fit_the_disk_leaves_no_partial_file(tmp_path: Path, size: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(ConfigError, match="choose another folder"):
            write_below(tmp_path, "large", bytes(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
