"""What the engine says of containers, asked beside the code under test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest


def containers(label: str) -> list[str]:
    """Ids of the containers with this label, whatever their state."""
    command = ["docker", "ps", "-aq", "--no-trunc", "--filter", f"label={label}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture(autouse=True)
def no_container_is_left() -> Iterator[None]:
    """Whatever a test does: afterwards this process has no container."""
    yield
    assert containers(f"rlm.owner.pid={os.getpid()}") == []
