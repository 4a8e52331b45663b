"""Attacks run in real containers, none of which may be left."""

from __future__ import annotations

from containers import no_container_is_left

__all__ = ["no_container_is_left"]
