"""Fixtures of the tests that break things under real runs."""

from __future__ import annotations

from containers import no_container_is_left

__all__ = ["no_container_is_left"]
