"""A run on the terminal while it goes, and its keys; see `live_view`."""

from .keys import Controls
from .view import live_view

__all__ = ["Controls", "live_view"]
