"""Python values as bytes for a sandbox: described by kind, produced piece by piece so that large ones are never copied.

Pure, but for reading the files of a `Path`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rlm.protocol.messages import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value in the encoding of its `kind` (see `rlm.protocol.messages.Load`).

    `size` is the number of bytes that `pieces()` yields; every piece is at most `CHUNK_BYTES` long.
    """

    kind: Kind
    size: int
    pieces: Callable[[], Iterator[bytes | memoryview]]
