"""The texts of a page: each once, compressed in pieces, so that a browser unpacks what is looked at and no more. Pure."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from hashlib import blake2b
from typing import Final

PIECE_CHARS: Final = 256 * 1024  # of text together; a few milliseconds to unpack

Ref = tuple[int, int, int]
"""Where a text is: its piece, its place in that, and its length in characters as a browser counts them (UTF-16)."""


class Texts:
    """Takes texts and hands out references. A text is in one piece whole, however long it is."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._open: list[str] = []
        self._chars = 0
        self._known: dict[bytes, Ref] = {}

    def put(self, text: str) -> Ref:
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest not in self._known:
            self._known[digest] = (len(self.pieces), len(self._open), utf16_length(text))
            self._open.append(text)
            self._chars += len(text)
            if self._chars >= PIECE_CHARS:
                self.close()
        return self._known[digest]

    def close(self) -> None:
        """End the piece that is being filled."""
        if self._open:
            self.pieces.append(packed(self._open))
            self._open, self._chars = [], 0


def utf16_length(text: str) -> int:
    """The length of a text as a browser counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def packed(data: object) -> str:
    """Plain data as JSON in ASCII, so that lone surrogates survive; gzip; base64, in which nothing ends an element."""
    return b64encode(gzip.compress(json.dumps(data, separators=(",", ":")).encode("ascii"), 6, mtime=0)).decode("ascii")
