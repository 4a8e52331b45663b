"""Fixtures of the tests that run real containers."""

from __future__ import annotations

import pytest
from containers import no_container_is_left

from rlm import SandboxConfig

__all__ = ["config", "no_container_is_left"]


@pytest.fixture(params=["attach", "unix"])
def config(request: pytest.FixtureRequest) -> SandboxConfig:
    """The default policy, over each transport."""
    return SandboxConfig(transport=request.param)
