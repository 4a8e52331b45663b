"""The context of a run, and which parts of it stand in prompts. Pure. Offsets count characters as Python does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIN_ANCHOR_CHARS: Final = 24  # of a prompt's line that is looked for in the context: shorter ones are found by chance
MAX_ANCHOR_CHARS: Final = 200
MAX_ANCHORS: Final = 40  # lines of one prompt that are tried
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
                at = self._find(anchor)
                if at >= 0:
                    length = common_length(prompt, position, self.text, at)
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

    def _find(self, anchor: str) -> int:
        at = self.text.find(anchor, self._latest, self._latest + NEAR_CHARS)
        if at >= 0:
            return at
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
