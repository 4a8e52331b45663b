"""Faults are injected into real containers, none of which may be left."""

from __future__ import annotations

from containers import no_container_is_left
from own_engine import module_engine, own_engine

__all__ = ["module_engine", "no_container_is_left", "own_engine"]
