"""Failing progress output never costs an answer; diagnostics are sentences."""

from __future__ import annotations

import errno
import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from rlm import cli
from rlm.cli.output import print_completion
from rlm.cli.streams import BestEffortStream, SentenceFormatter, harden_stdio
from rlm.errors import RLMError
from rlm.types import Completion, Usage


class Full(io.StringIO):
    """A stream that accepts a number of lines, then is full."""

    def __init__(self, lines: int, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self._left = lines
        self._number = number

    def write(self, text: str) -> int:
        if not self._left:
            raise OSError(self._number, "No space left on device")
        self._left -= 1
        return super().write(text)


def test_a_full_standard_error_raises_nothing() -> None:
    full = Full(1)
    stream = BestEffortStream(full)
    stream.writelines(["one ", "line\n"])
    assert stream.write("another\n") == 8
    stream.flush()
    assert (full.getvalue(), stream.isatty()) == ("one line\n", False)


def test_a_diagnostic_with_advice_is_shown_as_the_advice() -> None:
    def formatted(**more: Any) -> str:
        record = logging.makeLogRecord({"msg": "%s", "args": ("runtime_vulnerable a=1",), **more})
        return SentenceFormatter("rlm: %(message)s").format(record)

    assert formatted(fields={"node": "0", "advice": "Update it."}) == "rlm: Update it."
    assert formatted(fields={"node": "0"}) == formatted() == "rlm: runtime_vulnerable a=1"


def test_an_answer_that_cannot_be_written_is_named_with_its_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = Completion(
        answer="yes",
        stop_reason="final",
        usage=Usage(),
        seconds=1,
        iterations=1,
        depth_reached=0,
        sub_calls=0,
        sandboxes=1,
        run_id="a",
        run_dir=Path("runs/a"),
    )
    monkeypatch.setattr("sys.stdout", Full(0))
    with pytest.raises(
        RLMError,
        match=r"^Cannot write the answer to standard output: No space left on device. It is in runs/a/answer.t",
    ):
        print_completion(done, run="the-run", as_json=True, quiet=False)
    assert capsys.readouterr().err == ""


def test_an_error_of_a_file_is_not_taken_for_one_of_standard_output(rlm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EACCES, "Permission denied", "a \x1b file"),
        TimeoutError("it took too long"),
    ]

    def fails(**options: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(cli, "app", fails)
    ended = rlm()
    assert (ended.status, ended.err) == (1, "rlm: Cannot write to standard output: No space left on device.\n")
    assert rlm().err == "rlm: a \\x1b file: Permission denied.\n"
    assert rlm().err == "rlm: it took too long.\n"


def test_characters_outside_a_streams_encoding_are_written_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, data in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(data, encoding="latin-1", errors="strict"))
    harden_stdio()
    for stream in (sys.stdout, sys.stderr):
        stream.write("✓ é \ud800\n")
        stream.flush()
    assert [data.getvalue() for data in written.values()] == [b"\\u2713 \xe9 \\ud800\n"] * 2
