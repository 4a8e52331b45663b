from pathlib import Path

import pytest

from helpers.small_tree import small_tree


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return small_tree(run_root=tmp_path / "runs").completion("the context", "Is it the root?").run_dir
