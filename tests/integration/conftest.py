"""Fixtures of the tests that run real containers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from containers import containers

from rlm import SandboxConfig


@pytest.fixture(params=["attach", "unix"])
def config(request: pytest.FixtureRequest) -> SandboxConfig:
    """The default policy, over each transport."""
    return SandboxConfig(transport=request.param)


@pytest.fixture(autouse=True)
def no_container_is_left() -> Iterator[None]:
    """Whatever a test does: afterwards this process has no container."""
    yield
    assert containers(f"rlm.owner.pid={os.getpid()}") == []
