from pathlib import Path

import pytest

from helpers.small_tree import small_tree
from rlm import ScriptedModel


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return small_tree(run_root=tmp_path / "runs").completion("the context", "Is it the root?").run_dir


@pytest.fixture
def thinking_run(tmp_path: Path) -> Path:
    """A run whose root thinks before it answers."""
    model = ScriptedModel(lambda messages: "<think>Is it 42?\n\nIt is.</think>FINAL(42)", name="big")
    return small_tree(run_root=tmp_path / "runs", model=model).completion("the context", "Is it the root?").run_dir
