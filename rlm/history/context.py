"""The context of a run, and which parts of it stand in prompts. Pure. Offsets count characters as Python does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MIN_ANCHOR_CHARS: Final = 24  # of a prompt's line that is looked for in the context: shorter ones are found by chance
MAX_ANCHOR_CHARS: Final = 200
MAX_ANCHORS: Final = 40  # lines of one prompt that are tried
MAX_PLACES: Final = 8  # of one line that are looked at
MAX_SLICES: Final = 8  # of one prompt
MAX_SEARCHED_CHARS: Final = 5 * 10**9  # by all searches together: seconds
NEAR_CHARS: Final = (
    4 * 1024**2
)  # behind the latest find, where the next one is likely: calls go through a context in order


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Characters `start` to `end` of the context stand word for word in a prompt, from `offset` there."""

    start: int
    end: int
    offset: int


class Context:
    """A context that can be searched. `exhausted`: the work that a search may cost was used up, and slices are missing."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.exhausted = False
        self._left = MAX_SEARCHED_CHARS
        self._latest = 0
        self._known: dict[str, int] = {}

    def slices(self, prompt: str) -> list[Slice]:
        """The parts of a prompt that the context holds: from a line that it holds, as far as both agree."""
        found: list[Slice] = []
        position = tried = 0
        while position < len(prompt) and len(found) < MAX_SLICES and tried < MAX_ANCHORS:
            end = prompt.find("\n", position)
            end = len(prompt) if end < 0 else end
            anchor = prompt[position : min(end, position + MAX_ANCHOR_CHARS)]
            if len(anchor.strip()) >= MIN_ANCHOR_CHARS:
                tried += 1
                at, length = self._match(prompt, position, anchor)
                if length:
                    found.append(Slice(start=at, end=at + length, offset=position))
                    self._latest = at + length
                    end = max(end, position + length)
            position = end + 1
        return found

    def places(self, piece: str, prompt: str) -> tuple[int, ...]:
        """Where the context holds a piece: in the slice that a prompt has of it, else the first three places."""
        for part in self.slices(prompt):
            if (at := self.text.find(piece, part.start, part.end)) >= 0:
                return (at,)
        found: list[int] = []
        at = self.text.find(piece)
        while at >= 0 and len(found) < 3:
            found.append(at)
            at = self.text.find(piece, at + len(piece))
        return tuple(found)

    def _match(self, prompt: str, position: int, anchor: str) -> tuple[int, int]:
        """Start and length of the longest match that begins with an anchor: a line may stand in many places."""
        best = (-1, 0)
        for at in self._places(anchor):
            length = common_length(prompt, position, self.text, at)
            best = max(best, (at, length), key=lambda match: match[1])
            if length > len(anchor) + MIN_ANCHOR_CHARS:
                break
        return best

    def _places(self, anchor: str) -> Iterator[int]:
        near = self.text.find(anchor, self._latest, self._latest + NEAR_CHARS)
        if near >= 0:
            yield near
        at = self._first(anchor)
        for _ in range(MAX_PLACES):
            if at < 0:
                return
            yield at
            after = self.text.find(anchor, at + 1)
            self._left -= (after if after >= 0 else len(self.text)) - at
            at = after

    def _first(self, anchor: str) -> int:
        if anchor not in self._known:
            if self._left <= 0:
                self.exhausted = True
                return -1
            self._known[anchor] = at = self.text.find(anchor)
            self._left -= len(self.text) if at < 0 else at
        return self._known[anchor]


def common_length(left: str, i: int, right: str, j: int) -> int:
    """How many characters agree from there on, by halving: slices compare faster than characters."""
    low, high = 0, min(len(left) - i, len(right) - j)
    while low < high:
        middle = (low + high + 1) // 2
        if left[i + low : i + middle] == right[j + low : j + middle]:
            low = middle
        else:
            high = middle - 1
    return low
