"""Replies that broke other parsers, from public trackers (tests/corpus/replies): each is read as its file says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlm.loop.reply import parse

CASES = sorted((Path(__file__).parents[2] / "corpus" / "replies").glob("*.yaml"))


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_a_reply_from_a_tracker_is_read_as_its_file_says(path: Path) -> None:
    case: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    turn = parse(case["reply"])
    final = None if turn.final is None else {"kind": turn.final.kind, "value": turn.final.value}
    assert {"cells": list(turn.cells), "final": final, "thinking": turn.thinking} == {
        key: case[key] for key in ("cells", "final", "thinking")
    }
    if "problem" in case:
        assert turn.problem == case["problem"]
