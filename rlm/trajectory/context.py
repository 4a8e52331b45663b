"""The context of a run, and which parts of it stand in prompts. Pure. Offsets count characters as Python does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

ANCHOR_CHARS: Final = 24  # of a prompt, which are looked for in the context: fewer are found by chance
LONG_ANCHOR_CHARS: Final = 96  # where those stand in many places, as in the lines of a log
MIN_DISTINCT_CHARS: Final = 6  # of an anchor: rulers and blanks tell nothing
MAX_ANCHORS: Final = 31  # of one prompt: spread evenly, so that no part longer than a thirtieth of it is missed
MIN_FURTHER_CHARS: Final = 200  # beside what is found: fewer are the words around it, and would be looked for in vain
MAX_PLACES: Final = 9  # of one anchor that are looked at: one that stands in so many says nothing
MAX_SLICES: Final = 8  # of one prompt
MAX_SEARCHED_CHARS: Final = 2 * 10**9  # by all searches together: seconds
NEAR_CHARS: Final = 1024**2  # behind the latest find, where the next is likely: calls go through a context in order


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Characters `start` to `end` of the context stand word for word in a prompt, from `offset` there (-1: in none)."""

    start: int
    end: int
    offset: int

    @property
    def offset_end(self) -> int:
        return self.offset + self.end - self.start


class Context:
    """A context that can be searched. `exhausted`: the work that a search may cost was used up, and slices are missing."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.exhausted = False
        self._left = MAX_SEARCHED_CHARS
        self._latest = 0
        self._known: dict[str, int] = {}

    def slices(self, prompt: str) -> list[Slice]:
        """The parts of a prompt that the context holds, in the prompt's order: each as far as both agree.

        The middle of what is not explained yet is looked for, then the middles of what is left on both sides: so the words
        around a slice cost little, and a prompt that is not from the context costs `MAX_ANCHORS` searches.
        """
        found: list[Slice] = []
        parts, tried = deque([(0, len(prompt))]), 0
        while parts and len(found) < MAX_SLICES and tried < MAX_ANCHORS:
            start, end = parts.popleft()
            if end - start < (MIN_FURTHER_CHARS if found else ANCHOR_CHARS):
                continue
            known = next((part for part in found if part.offset < end and start < part.offset_end), None)
            if known is None:
                middle = (start + end - ANCHOR_CHARS) // 2
                if _tells(prompt, middle):
                    tried += 1
                    known = self._longest(prompt, middle, found)
                if known is None:
                    parts += [(start, middle + ANCHOR_CHARS - 1), (middle + 1, end)]
                    continue
                found.append(known)
                self._latest = known.end
            parts += [(start, known.offset), (known.offset_end, end)]
        return sorted(found, key=lambda part: part.offset)

    def begun(self, head: str, tail: str, chars: int) -> Slice | None:
        """The part of so many characters that begins and ends so: it is no part of a prompt, so its offset there is -1."""
        at = self.text.find(head) if head else -1
        while at >= 0:
            if at + chars <= len(self.text) and self.text.endswith(tail, at, at + chars):
                return Slice(start=at, end=at + chars, offset=-1)
            at = self.text.find(head, at + 1)
        return None

    def places(self, piece: str, slices: Iterable[Slice]) -> tuple[int, ...]:
        """Where the context holds a piece: in one of these slices, else the first three places."""
        for part in slices:
            if (at := self.text.find(piece, part.start, part.end)) >= 0:
                return (at,)
        found: list[int] = []
        at = self.text.find(piece)
        while at >= 0 and len(found) < 3:
            found.append(at)
            at = self.text.find(piece, at + len(piece))
        return tuple(found)

    def _longest(self, prompt: str, middle: int, found: Iterable[Slice]) -> Slice | None:
        """The longest match around an anchor, up to what is found; None where it stands in too many places to say."""
        start = max((part.offset_end for part in found if part.offset_end <= middle), default=0)
        end = min((part.offset for part in found if part.offset > middle), default=len(prompt))
        for chars in (ANCHOR_CHARS, LONG_ANCHOR_CHARS):
            best: Slice | None = None
            places = 0
            for at in islice(self._places(prompt[middle : min(middle + chars, end)]), MAX_PLACES):
                places += 1
                before = common_length_before(prompt[start:middle], self.text, at)
                length = before + common_length(prompt[:end], middle, self.text, at)
                if best is None or length > best.end - best.start:
                    best = Slice(start=at - before, end=at - before + length, offset=middle - before)
                if length > LONG_ANCHOR_CHARS:
                    return best  # not by chance: the other places are not worth the search
            if places < MAX_PLACES:
                return best
        return None

    def _places(self, anchor: str) -> Iterator[int]:
        if self._left <= 0:
            self.exhausted = True
        if self.exhausted or self._known.get(anchor) == -1:
            return
        start, end = self._latest, self._latest + NEAR_CHARS
        at = self._find(anchor, start, end)
        while at >= 0:
            yield at
            at = self._find(anchor, at + 1, end)
        at = self._first(anchor)
        while at >= 0:
            if not start <= at <= end - len(anchor):
                yield at
            at = self._find(anchor, at + 1, len(self.text))

    def _first(self, anchor: str) -> int:
        if anchor not in self._known:
            self._known[anchor] = self._find(anchor, 0, len(self.text))
        return self._known[anchor]

    def _find(self, anchor: str, start: int, end: int) -> int:
        at = self.text.find(anchor, start, end)
        self._left -= (min(end, len(self.text)) if at < 0 else at) - start
        return at


def _tells(prompt: str, middle: int) -> bool:
    return len(set(prompt[middle : middle + ANCHOR_CHARS])) >= MIN_DISTINCT_CHARS


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


def common_length_before(left: str, right: str, j: int) -> int:
    """How many characters at the end of `left` agree with those of `right` before place `j`."""
    low, high = 0, min(len(left), j)
    while low < high:
        middle = (low + high + 1) // 2
        if right.startswith(left[len(left) - middle : len(left) - low], j - middle):
            low = middle
        else:
            high = middle - 1
    return low
