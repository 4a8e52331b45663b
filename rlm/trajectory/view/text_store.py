"""The texts of a page, each stored once in compressed pieces, so that a browser unpacks only what it shows. Pure."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from hashlib import blake2b
from typing import Final

PIECE_CHARS: Final = 256 * 1024  # a piece unpacks in a few milliseconds

TextRef = tuple[int, int, int]
"""The place of a text: number of its piece, index in the piece, and length as a browser counts it (UTF-16 units)."""


class TextStore:
    """Stores texts and returns references. A text is never split, however long it is.

    Attributes:
        pieces: The finished pieces, packed.
    """

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._pending: list[str] = []
        self._pending_chars = 0
        self._refs: dict[bytes, TextRef] = {}

    def put(self, text: str) -> TextRef:
        """Store a text, unless an equal one is stored already."""
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest not in self._refs:
            self._refs[digest] = (len(self.pieces), len(self._pending), utf16_length(text))
            self._pending.append(text)
            self._pending_chars += len(text)
            if self._pending_chars >= PIECE_CHARS:
                self.flush()
        return self._refs[digest]

    def flush(self) -> None:
        """Finish the current piece."""
        if self._pending:
            self.pieces.append(pack(self._pending))
            self._pending, self._pending_chars = [], 0


def utf16_length(text: str) -> int:
    """Length of a text as a browser counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def pack(data: object) -> str:
    """Encode plain data: ASCII JSON keeps lone surrogates, base64 contains nothing that could end an element."""
    return b64encode(gzip.compress(json.dumps(data, separators=(",", ":")).encode("ascii"), 6, mtime=0)).decode("ascii")
