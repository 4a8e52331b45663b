"""The needle tasks of RULER (arXiv 2404.06654): eight variants over three kinds of haystack.

Questions, needle positions, sizes and scoring follow RULER. The words, the noise line, the prose and the token estimate
(see `rlm.evals.corpus.tokens`) are our own.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal

from rlm.evals.corpus.prose import first_words, first_words_tokens
from rlm.evals.corpus.seeded_random import SeededRandom
from rlm.evals.corpus.tokens import tokens
from rlm.evals.corpus.words import ADJECTIVES, NOUNS
from rlm.evals.task import Instance, too_short

Kind = Literal["words", "numbers", "uuids"]

NOISE: Final = "The lamp is lit. The road is long. The well is deep. On we go. Home and away again."
NEEDLE: Final = "One of the special magic {kind} for {key} is: {value}."
DEPTHS: Final = tuple(round(place * 100 / 39) for place in range(40))  # 40 whole percentages, evenly spaced
ANSWER_TOKENS: Final = 128  # part of each length that is reserved for the answer
WORD_STEP, LINE_STEP = 500, 25  # the size of a haystack is a multiple of these words or lines
SHORT_STEP, SHORT_TOKENS = 5, 4096  # the step of lengths below 4,096 tokens

_FOUND: Final = re.compile(r"One of the special magic \w+ for ([\w-]+) is: ([\w-]+)\.")
_ASKED: Final = re.compile(r"for (.+) mentioned in the provided text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruler:
    """One variant: `keys` keys with `values` values each, of which the question asks for `asked` keys."""

    variant: str
    haystack: Literal["noise", "prose", "needles"]
    key_kind: Kind = "words"
    value_kind: Kind = "numbers"
    keys: int = 1
    values: int = 1
    asked: int = 1

    @property
    def name(self) -> str:
        return f"ruler/{self.variant}"

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """See `Task`."""
        rng = SeededRandom(self.name, length, seed, index)
        keys = list[str]()
        while len(keys) < self.keys:
            key = _draw(rng, self.key_kind)
            if key not in keys:
                keys.append(key)
        needles = {key: [_draw(rng, self.value_kind) for _ in range(self.values)] for key in keys}
        asked = keys[: self.asked]
        lines = rng.shuffled([self._needle(key, value) for key in keys for value in needles[key]])
        opening, query = self._opening(), self._query(asked)
        budget = length - ANSWER_TOKENS - tokens(f"{opening}\n{query}") - sum(map(tokens, lines))
        match self.haystack:
            case "prose":
                haystack = self._prose(rng, lines, budget, SHORT_STEP if length < SHORT_TOKENS else WORD_STEP)
            case "noise" | "needles":
                haystack = self._lines(
                    rng, lines, budget, SHORT_STEP if length < SHORT_TOKENS else LINE_STEP, set(keys)
                )
        if haystack is None:
            raise too_short(self.name, length)
        return Instance(
            task=self.name,
            length=length,
            seed=seed,
            index=index,
            context=f"{opening}\n{haystack}",
            query=query,
            answers=tuple(value for key in asked for value in sorted(needles[key])),
            scorer="recall",
        )

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """See `Task`."""
        assert isinstance(context, str)
        match = _ASKED.search(query)
        if match is None:
            raise ValueError(f"Not a question of {self.name}: {query}")
        asked = re.split(r", and |, ", match[1])
        found: dict[str, list[str]] = {key: [] for key in asked}
        for key, value in _FOUND.findall(context):
            if key in found:
                found[key].append(value)
        return tuple(value for key in asked for value in sorted(found[key]))

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(kind=self.value_kind, key=key, value=value)

    def _opening(self) -> str:
        kind = self.value_kind
        if self.asked * self.values > 1:
            return (
                f"Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
                f"I will quiz you about the {kind} afterwards."
            )
        return (
            f"A special magic {kind[:-1]} is hidden within the following text. Make sure to memorize it. "
            f"I will quiz you about the {kind[:-1]} afterwards."
        )

    def _query(self, asked: list[str]) -> str:
        named = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
        if self.asked * self.values > 1:
            return f"What are all the special magic {self.value_kind} for {named} mentioned in the provided text?"
        return f"What is the special magic {self.value_kind[:-1]} for {named} mentioned in the provided text?"

    def _prose(self, rng: SeededRandom, needles: list[str], budget: int, step: int) -> str | None:
        count = _largest(first_words_tokens, budget, step)
        if count == 0:
            return None
        sentences = re.split(r"(?<=\.) ", first_words(count))
        places = sorted(int(len(sentences) * depth / 100) for depth in rng.sample(DEPTHS, len(needles)))
        parts = list[str]()
        for start, end, needle in zip([0, *places], places, needles, strict=False):
            parts += [*sentences[start:end], needle]
        return " ".join(parts + sentences[places[-1] :])

    def _lines(self, rng: SeededRandom, needles: list[str], budget: int, step: int, taken: set[str]) -> str | None:
        if self.haystack == "noise":
            line = tokens(f"{NOISE}\n")
            lines = [NOISE] * _largest(lambda count: count * line, budget, step)
        else:
            drawn, used = list[str](), 0
            while used <= budget:
                key = _draw(rng, self.key_kind)
                if key not in taken:
                    drawn.append(self._needle(key, _draw(rng, self.value_kind)))
                    used += tokens(drawn[-1])
            sums = list(accumulate(map(tokens, drawn), initial=0))
            lines = drawn[: _largest(sums.__getitem__, budget, step, most=len(drawn))]
        if len(lines) < len(needles):
            return None
        for place, needle in zip(
            sorted(rng.sample(range(len(lines)), len(needles)), reverse=True), needles, strict=True
        ):
            lines.insert(place, needle)
        return "\n".join(lines)


def _draw(rng: SeededRandom, kind: Kind) -> str:
    match kind:
        case "words":
            return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"
        case "numbers":
            return str(rng.between(1_000_000, 9_999_999))
        case "uuids":
            return str(uuid.UUID(int=rng.bits(128), version=4))


def _largest(cost: Callable[[int], int], budget: int, step: int, most: int | None = None) -> int:
    """The largest multiple of `step` up to `most` whose cost is at most `budget`, by binary search."""
    low, high = 0, (max(budget, 0) if most is None else most) // step
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle * step) <= budget else (low, middle - 1)
    return low * step


VARIANTS: Final = (
    Ruler(variant="single_1", haystack="noise"),
    Ruler(variant="single_2", haystack="prose"),
    Ruler(variant="single_3", haystack="prose", value_kind="uuids"),
    Ruler(variant="multikey_1", haystack="prose", keys=4),
    Ruler(variant="multikey_2", haystack="needles"),
    Ruler(variant="multikey_3", haystack="needles", key_kind="uuids", value_kind="uuids"),
    Ruler(variant="multivalue", haystack="prose", values=4),
    Ruler(variant="multiquery", haystack="prose", keys=4, asked=4),
)
