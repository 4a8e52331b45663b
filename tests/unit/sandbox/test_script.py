"""Exit status of a script: untrusted text from a sandbox, accepted only as a valid number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlm.errors import ConfigError
from rlm.sandbox.script import _exit_status, collect_files
from rlm.types import CellResult


def end(answer: str | None, outcome: str = "ok", error: str = "") -> tuple[int, str]:
    return _exit_status(
        CellResult(
            outcome=outcome,  # type: ignore[arg-type]
            stdout="",
            stderr="",
            stdout_cut=0,
            stderr_cut=0,
            error=error,
            answer=answer,
            snapshot=True,
            seconds=0.0,
        )
    )


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_a_status_is_the_scripts_own(status: int) -> None:
    assert end(str(status)) == (status, "")


@pytest.mark.parametrize("status", [None, "", "256", "999", "²", "٣", "-1", " 0", "0\n", "0x1", "1.0", "1" * 5000])
def test_an_invalid_exit_status_is_a_failure(status: str | None) -> None:
    assert end(status) == (1, "The script ended with an invalid exit status.")


def test_other_ends_have_the_status_that_shells_give_them() -> None:
    assert [end("0", outcome, "why") for outcome in ("timeout", "died", "error")] == [
        (124, "why"),
        (137, "why"),
        (1, "why"),
    ]


class FewBytes:
    """Serves files of at most 10 bytes each."""

    async def get(self, path: str, *, max_bytes: int) -> bytes:
        if max_bytes > 10:
            raise ConfigError("too many")
        return b"hello"


@pytest.mark.anyio
async def test_all_files_together_may_exceed_the_limit_of_one(tmp_path: Path) -> None:
    sandbox: Any = FewBytes()
    collected = await collect_files(sandbox, ["a", "b", "c"], tmp_path, max_bytes=20, max_file_bytes=10)
    assert (len(collected.files), collected.skipped) == (3, [])
