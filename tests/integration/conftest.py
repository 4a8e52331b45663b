"""Fixtures of the tests that run real containers."""

from __future__ import annotations

import pytest

from helpers.containers import no_container_is_left, offered, ways
from rlm import SandboxConfig

__all__ = ["config", "no_container_is_left"]


@pytest.fixture(params=ways(daily=2))
def config(request: pytest.FixtureRequest) -> SandboxConfig:
    """The default policy, with each runtime and over each transport."""
    return offered(request.param)
