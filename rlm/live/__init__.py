"""Shows runs on a terminal: a live tree with keys, or lines. Imports loop and what is below."""

from .keys import Controls
from .view import live_view

__all__ = ["Controls", "live_view"]
