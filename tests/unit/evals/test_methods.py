"""What a method sends fits into the window that it was told of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.evals.methods import Means, map_reduce
from rlm.evals.task import Instance
from rlm.evals.tokens import tokens
from rlm.models.scripted import ScriptedModel
from rlm.types import Message

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
    await map_reduce(TEXT, Means(models=lambda task: (played, played), window=window), tmp_path)
    assert max(sizes) < (33_000 if window is None else window - 1_000)
    assert sum(sizes) > tokens(str(TEXT.context))


async def test_a_window_that_holds_no_piece_is_refused(tmp_path: Path) -> None:
    played = ScriptedModel(["a note"])
    with pytest.raises(ConfigError, match="A window of 900 tokens holds no piece"):
        await map_reduce(TEXT, Means(models=lambda task: (played, played), window=900), tmp_path)
