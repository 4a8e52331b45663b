"""File paths in a sandbox: relative, plain, bounded. Both ends check them; neither trusts the other's check."""

from __future__ import annotations

from typing import Final

MAX_PATH_CHARS: Final = 1024
MAX_NAME_BYTES: Final = 255  # NAME_MAX of Linux
MAX_PARTS: Final = 16


def split_path(path: str) -> list[str]:
    """Split a path into its folders and the file name.

    Raises:
        ValueError: The path is not relative and plain. The message is a sentence without a full stop.
    """
    parts = path.split("/")
    if not path or len(path) > MAX_PATH_CHARS or len(parts) > MAX_PARTS:
        raise ValueError(f"a path must have 1 to {MAX_PATH_CHARS} characters and at most {MAX_PARTS} parts")
    for part in parts:
        if part in ("", ".", ".."):
            raise ValueError(f"{path!r} is not a plain relative path")
        if not part.isprintable() or len(part.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
            raise ValueError(f"{path!r} contains a name that is too long or not printable")
    return parts
