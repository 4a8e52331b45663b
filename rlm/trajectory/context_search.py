"""Finds the parts of a run's context that prompts quote. Pure. Offsets count characters, as Python does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

ANCHOR_CHARS: Final = 24  # length of the parts of a prompt to search for: shorter strings match by chance
LONG_ANCHOR_CHARS: Final = 96  # second try for an anchor that occurs often, as in the lines of a log
MIN_DISTINCT_CHARS: Final = 6  # different characters of an anchor: rulers and blanks match everywhere
MAX_ANCHORS: Final = 31  # per prompt, evenly spread: they find any slice longer than a thirtieth of the prompt
MIN_GAP_CHARS: Final = 200  # gaps between slices to search: shorter ones are the caller's own words
MAX_OCCURRENCES: Final = 9  # compared per anchor: an anchor that occurs more often identifies nothing
MAX_SLICES: Final = 8  # per prompt
MAX_PIECE_OFFSETS: Final = 3  # enough to show that a piece is ambiguous
MAX_SEARCHED_CHARS: Final = 2 * 10**9  # total of all searches in a run, which take a few seconds
NEAR_CHARS: Final = 1024**2  # searched first, after the latest match: calls walk through a context in order


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSlice:
    """A part of the context that a prompt quotes verbatim.

    Attributes:
        start: Offset of the first character in the context.
        end: Offset after the last character in the context.
        offset: Offset of the slice in the prompt, or -1 if it is the context of a recursive call.
    """

    start: int
    end: int
    offset: int

    @property
    def offset_end(self) -> int:
        """Offset after the slice in the prompt."""
        return self.offset + self.end - self.start


class SearchableContext:
    """The text of a context, and searches in it.

    Attributes:
        text: The context.
        exhausted: The searches reached `MAX_SEARCHED_CHARS`, so slices may be missing.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.exhausted = False
        self._remaining_chars = MAX_SEARCHED_CHARS
        self._latest_end = 0
        self._first_offsets: dict[str, int] = {}

    def slices(self, prompt: str) -> list[ContextSlice]:
        """The parts of the context that a prompt quotes, in the prompt's order, each as long as both agree.

        Searches for the middle of each unexplained part, then for the middles of the rests on both sides. So the words
        around a slice cost little, and a prompt without any slice costs at most `MAX_ANCHORS` searches.
        """
        found: list[ContextSlice] = []
        parts, searches = deque([(0, len(prompt))]), 0
        while parts and len(found) < MAX_SLICES and searches < MAX_ANCHORS:
            start, end = parts.popleft()
            if end - start < (MIN_GAP_CHARS if found else ANCHOR_CHARS):
                continue
            match = next((part for part in found if part.offset < end and start < part.offset_end), None)
            if match is None:
                middle = (start + end - ANCHOR_CHARS) // 2
                if _is_distinctive(prompt, middle):
                    searches += 1
                    match = self._longest_match(prompt, middle, found)
                if match is None:
                    parts += [(start, middle + ANCHOR_CHARS - 1), (middle + 1, end)]
                    continue
                found.append(match)
                self._latest_end = match.end
            parts += [(start, match.offset), (match.offset_end, end)]
        return sorted(found, key=lambda part: part.offset)

    def slice_between(self, head: str, tail: str, chars: int) -> ContextSlice | None:
        """The first part of the context with this beginning, end and length: the context of a recursive call."""
        at = self.text.find(head) if head else -1
        while at >= 0:
            if at + chars <= len(self.text) and self.text.endswith(tail, at, at + chars):
                return ContextSlice(start=at, end=at + chars, offset=-1)
            at = self.text.find(head, at + 1)
        return None

    def offsets_of(self, piece: str, slices: Iterable[ContextSlice]) -> tuple[int, ...]:
        """Offsets of a piece in the context: the one inside these slices, or else the first `MAX_PIECE_OFFSETS`."""
        for part in slices:
            if (at := self.text.find(piece, part.start, part.end)) >= 0:
                return (at,)
        offsets: list[int] = []
        at = self.text.find(piece)
        while at >= 0 and len(offsets) < MAX_PIECE_OFFSETS:
            offsets.append(at)
            at = self.text.find(piece, at + len(piece))
        return tuple(offsets)

    def _longest_match(self, prompt: str, middle: int, found: Iterable[ContextSlice]) -> ContextSlice | None:
        """The longest match around an anchor that overlaps no known slice, or None if the anchor occurs too often."""
        start = max((part.offset_end for part in found if part.offset_end <= middle), default=0)
        end = min((part.offset for part in found if part.offset > middle), default=len(prompt))
        for chars in (ANCHOR_CHARS, LONG_ANCHOR_CHARS):
            best: ContextSlice | None = None
            occurrences = 0
            for at in islice(self._occurrences(prompt[middle : min(middle + chars, end)]), MAX_OCCURRENCES):
                occurrences += 1
                before = common_length_before(prompt[start:middle], self.text, at)
                length = before + common_length(prompt[:end], middle, self.text, at)
                if best is None or length > best.end - best.start:
                    best = ContextSlice(start=at - before, end=at - before + length, offset=middle - before)
                if length > LONG_ANCHOR_CHARS:
                    return best  # too long for chance: other occurrences are not worth the search
            if occurrences < MAX_OCCURRENCES:
                return best
        return None

    def _occurrences(self, anchor: str) -> Iterator[int]:
        """Offsets of an anchor, those near the latest match first."""
        if self._remaining_chars <= 0:
            self.exhausted = True
        if self.exhausted or self._first_offsets.get(anchor) == -1:
            return
        start, end = self._latest_end, self._latest_end + NEAR_CHARS
        at = self._find(anchor, start, end)
        while at >= 0:
            yield at
            at = self._find(anchor, at + 1, end)
        at = self._first_offset(anchor)
        while at >= 0:
            if not start <= at <= end - len(anchor):
                yield at
            at = self._find(anchor, at + 1, len(self.text))

    def _first_offset(self, anchor: str) -> int:
        if anchor not in self._first_offsets:
            self._first_offsets[anchor] = self._find(anchor, 0, len(self.text))
        return self._first_offsets[anchor]

    def _find(self, anchor: str, start: int, end: int) -> int:
        at = self.text.find(anchor, start, end)
        self._remaining_chars -= (min(end, len(self.text)) if at < 0 else at) - start
        return at


def _is_distinctive(prompt: str, middle: int) -> bool:
    return len(set(prompt[middle : middle + ANCHOR_CHARS])) >= MIN_DISTINCT_CHARS


def common_length(left: str, i: int, right: str, j: int) -> int:
    """Number of characters that agree from `left[i]` and `right[j]` on, by bisection: slices compare fastest."""
    low, high = 0, min(len(left) - i, len(right) - j)
    while low < high:
        middle = (low + high + 1) // 2
        if left[i + low : i + middle] == right[j + low : j + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_length_before(left: str, right: str, j: int) -> int:
    """Number of characters at the end of `left` that agree with those of `right` before `right[j]`."""
    low, high = 0, min(len(left), j)
    while low < high:
        middle = (low + high + 1) // 2
        if right.startswith(left[len(left) - middle : len(left) - low], j - middle):
            low = middle
        else:
            high = middle - 1
    return low
