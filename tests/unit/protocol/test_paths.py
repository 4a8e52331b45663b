"""File paths are relative and plain at both ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.protocol.paths import MAX_PATH_CHARS, split_path


@pytest.mark.parametrize("path", ["a", "a/b.txt", "in put/ü", "..a/b..", "a" * 255, "/".join("a" * 16)])
def test_plain_relative_paths_are_accepted(path: str) -> None:
    assert "/".join(split_path(path)) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.", "a\0b", "a\nb", "\ud800", "\u202ea"),
        *("a" * 256, "ü" * 128, "/".join("a" * 17), "a" * (MAX_PATH_CHARS + 1)),
    ],
)
def test_all_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|name"):
        split_path(path)


@given(st.text(alphabet="a./\0\n\ud800ü", max_size=20))
def test_an_accepted_path_never_leads_outside(path: str) -> None:
    try:
        parts = split_path(path)
    except ValueError:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(parts)
