"""For the tests of programs that use rlm: models that cost nothing and always say the same."""

from __future__ import annotations

from rlm.models.scripted import ScriptedModel as ScriptedModel

__all__ = ["ScriptedModel"]
