"""A run on the terminal while it goes, and its keys; see `live_view`."""

from .keys import Controls
from .view import View, live_view

__all__ = ["Controls", "View", "live_view"]
