"""The prompts of a method fit into the model's window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.evals.corpus.tokens import tokens
from rlm.evals.methods.base import MethodContext
from rlm.evals.methods.plain import direct, map_reduce, split_text
from rlm.evals.report.report import LIMITS
from rlm.evals.task import Instance
from rlm.models.scripted import ScriptedModel
from rlm.types import Message, ModelReply, Usage

pytestmark = pytest.mark.anyio

TEXT = Instance(
    task="t", length=1, seed=1, index=0, context="A line of words.\n" * 20_000, query="How many?", answers=("1",),
    scorer="recall",
)  # fmt: skip


@pytest.mark.parametrize("window", [4_000, 16_000, None])
async def test_map_reduce_cuts_pieces_that_the_window_holds(tmp_path: Path, window: int | None) -> None:
    sizes: list[int] = []

    def model(messages: Sequence[Message]) -> str:
        sizes.append(tokens(messages[-1].content))
        return "a note"

    played = ScriptedModel(model)
    await map_reduce(TEXT, MethodContext(models=lambda task: (played, played), window=window), tmp_path)
    assert max(sizes) < (33_000 if window is None else window - 1_000)
    assert sum(sizes) > tokens(str(TEXT.context))


@pytest.mark.parametrize("text", ["7 3 1 9\n" * 2_000 + "responsibility\n" * 8_000, "71" * 9_000, "a\n" * 9, "", " \n"])
@pytest.mark.parametrize("size", [1, 100, 4_000])
def test_no_piece_has_more_tokens_than_it_is_cut_for_and_none_is_lost(text: str, size: int) -> None:
    pieces = split_text(text, size)
    assert all(tokens(piece) <= size for piece in pieces)
    assert "".join(pieces) == text


@pytest.mark.parametrize(("cut", "counted"), [("above is part 2", True), ("Notes from", True), ("no prompt", False)])
async def test_a_truncated_reply_of_map_reduce_counts_as_stopped_by_a_limit(
    tmp_path: Path, cut: str, counted: bool
) -> None:
    def model(messages: Sequence[Message]) -> ModelReply:
        finish = "length" if cut in messages[-1].content else "stop"
        return ModelReply(text="a note", usage=Usage(), model="m", finish_reason=finish)

    played = ScriptedModel(model)
    done = await map_reduce(TEXT, MethodContext(models=lambda task: (played, played)), tmp_path)
    assert (done.stop_reason in LIMITS) == counted


async def test_a_window_without_room_is_reported_without_a_negative_number(tmp_path: Path) -> None:
    played = ScriptedModel(["a note"])
    done = await direct(TEXT, MethodContext(models=lambda task: (played, played), window=1), tmp_path)
    assert done.note == f"context truncated to about 0 of {tokens(str(TEXT.context)):,} tokens"


async def test_a_window_that_holds_no_piece_is_refused(tmp_path: Path) -> None:
    played = ScriptedModel(["a note"])
    with pytest.raises(ConfigError, match="A window of 1 tokens is too small"):
        await map_reduce(TEXT, MethodContext(models=lambda task: (played, played), window=1), tmp_path)


@pytest.mark.anyio
@pytest.mark.parametrize("window", [2_048, 4_096, 16_000, 128_000])
async def test_a_context_that_fits_beside_a_short_reply_is_not_cut(tmp_path: Path, window: int) -> None:
    """The room for the reply is an eighth of a small window, 2,000 tokens of a large one."""
    room = int((window - min(2_000, window // 8)) * 0.85)
    instance = replace(TEXT, context="word " * (room - tokens(TEXT.query)))
    assert tokens(str(instance.context)) <= room - tokens(TEXT.query)
    played = ScriptedModel(["a note"])
    done = await direct(instance, MethodContext(models=lambda task: (played, played), window=window), tmp_path)
    assert done.note == ""
    longer = replace(TEXT, context=str(instance.context) * 2)
    done = await direct(longer, MethodContext(models=lambda task: (played, played), window=window), tmp_path)
    assert done.note.startswith("context truncated to about ")
