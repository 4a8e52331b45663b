"""Generated prose: a book of plain sentences for haystacks, the same on every machine.

The sentences come from patterns, so they read like a dull travel diary. None contains a seven-digit number, an identifier,
or the words of a needle.
"""

from __future__ import annotations

import functools
import re
from itertools import accumulate
from typing import Final

from .seeded_random import SeededRandom
from .tokens import tokens
from .words import ADJECTIVES, NOUNS, listed

BOOK_WORDS: Final = 200_000  # about 1.1 MB, as RULER's essays; longer texts repeat the book, as RULER does

_PATTERNS: Final = (
    "The {a} {n} stood beside the {m}, and nobody could say who had put it there.",
    "We walked as far as the {n} before the {t} was over.",
    "It is a {a} thing to find a {n} where one looked for a {m}.",
    "In the {t}, people bring their {p} to the {n} and talk until the light goes.",
    "Nobody in the village had seen a {n} as {a} as this one.",
    "When the {n} was new, the {m} behind it was already old.",
    "She kept a {a} {n} on the shelf, next to a {m} that her aunt had given her.",
    "He said that a {n} is worth more than any {m}, and most of them agreed.",
    "There were {p} on both sides of the road, and behind them a {a} {n}.",
    "A man who knows his {n} does not need a {m}, as the saying goes.",
    "The best part of the {t} was the walk back along the {n}.",
    "I asked what the {n} was for, but the answer was {a} and short.",
    "Before the {m} came, all the {p} had to be carried by hand.",
    "They painted the {n} in a {a} colour, which did not last.",
    "If the wind turns, the {n} makes a sound like a {a} {m}.",
    "Most of what we know about the {n} comes from a letter found in a {m}.",
    "The children had built a {n} of {p}, and it was {a} enough to stand in.",
    "Work on the {n} began late in the {t} and was never quite finished.",
    "You can tell a good {n} by its {m}, or so the old people believed.",
    "For a while the {a} {n} was the only thing that anyone talked about.",
    "Some of the {p} were lost on the way, though the {n} arrived whole.",
    "It rained through the {t}, and the {n} filled slowly with {a} water.",
    "My neighbour trusts his {n}, and I trust mine; neither of us has a {m}.",
    "What looked like a {n} from the hill turned out to be a {a} {m}.",
)
_TIMES: Final = listed("morning afternoon evening night spring summer autumn winter week season holiday harvest")


@functools.cache
def book() -> tuple[str, ...]:
    """The words of the book, in order."""
    rng, words = SeededRandom("prose"), list[str]()
    while len(words) < BOOK_WORDS:
        sentence = rng.choice(_PATTERNS).format(
            a=rng.choice(ADJECTIVES),
            n=rng.choice(NOUNS),
            m=rng.choice(NOUNS),
            p=rng.choice(NOUNS) + "s",
            t=rng.choice(_TIMES),
        )
        words += sentence.split()
    return tuple(words[:BOOK_WORDS])


@functools.cache
def book_sentences() -> tuple[str, ...]:
    """The book's sentences, without the last one, which may be incomplete."""
    return tuple(re.split(r"(?<=\.) ", " ".join(book()))[:-1])


@functools.cache
def book_tokens() -> tuple[int, ...]:
    """Item i is the estimated number of tokens of the first i words of the book."""
    return tuple(accumulate(map(tokens, book()), initial=0))


def passage(rng: SeededRandom, size: int) -> list[str]:
    """Consecutive sentences of about `size` tokens from a random place in the book; none if `size` is below 1."""
    sentences, found = book_sentences(), list[str]()
    place = rng.below(len(sentences))
    while size > 0:
        sentence = sentences[place % len(sentences)]
        size -= tokens(sentence)
        found.append(sentence)
        place += 1
    return found


def first_words(count: int) -> str:
    """The first `count` words of the book, which repeats if it is too short."""
    whole, rest = divmod(count, BOOK_WORDS)
    return " ".join([*([" ".join(book())] * whole), " ".join(book()[:rest])]).rstrip()


def first_words_tokens(count: int) -> int:
    """The estimated number of tokens of `first_words(count)`, without creating it."""
    whole, rest = divmod(count, BOOK_WORDS)
    return whole * book_tokens()[-1] + book_tokens()[rest]
