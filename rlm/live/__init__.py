"""The live view of a run on a terminal, with its keys; see `live_view`."""

from .keys import Controls
from .view import live_view

__all__ = ["Controls", "live_view"]
