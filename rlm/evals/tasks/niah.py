"""Needle in a haystack: a few facts among up to a million lines of random words.

A haystack is a pure function of its number, lines, facts and seed. Its answers can be read from its text.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rlm.evals.corpus.seeded_random import SeededRandom
from rlm.evals.corpus.tokens import tokens
from rlm.evals.task import Instance, too_short

WORDS: Final = """
acorn amble anchor apple april arrow autumn badge bamboo basin beacon berry birch blanket bloom border bottle branch
breeze bridge bright bronze bucket button cabin candle canvas canyon carpet castle cedar chalk cherry circle clever
cliff cloud clover coast cobalt comet copper coral corner cotton cradle crystal curtain dancer dawn desert distant
dragon drift eager early east echo elder ember empty engine even fabric falcon feather fence fern field finch flame
flint forest fossil fountain gallop garden gentle ginger glacier golden granite grape gravel green harbor hazel
heron hidden hollow honey horizon humble icicle indigo island ivory jasmine jungle kettle kindle ladder lagoon
lantern laurel lemon lily linen little lively lumber lunar mango maple marble meadow mellow meteor middle mineral
mirror misty morning mosaic mountain narrow nectar nimble north oak oasis ocean olive onion orbit orchard otter
paddle palace paper parsley pebble pepper piano pigeon pillow plain planet plume pocket pollen prairie quartz quiet
quilt rabbit rain raven reed ribbon ridge river robin rocket saddle saffron salmon sandal school shadow silent
silver simple sketch slender south sparrow spiral spring stable starling steady stone summer sunset swallow tangle
temple thicket thunder timber topaz torch trellis tulip tunnel twilight valley velvet violet wagon walnut warm water
west whisper willow window winter wonder woven yellow zephyr
""".split()  # noqa: SIM905 - two hundred lines as a list
NAMES: Final = ("ada", "ben", "chen", "dora", "emil", "finn", "greg", "hana", "ivan", "jomo", "kai", "lucy")

FACTS: Final = 5  # names that an instance of `seed_niah/facts` asks for by default
MIN_LINES: Final = 20  # the middle fifth of a smaller haystack has no room for the facts
MIN_WORDS, MAX_WORDS = 3, 8  # words per line
FIRST_PLACE, LAST_PLACE = 0.4, 0.6  # the facts hide between these shares of the lines
POOL_LINES: Final = 20_000  # distinct random lines to draw from: drawing every word would take ten seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Haystack:
    """A text with facts and a question about them.

    Attributes:
        context: the text.
        query: the question.
        expected: each fact's number by its name; the name of a single fact is empty.
    """

    context: str
    query: str
    expected: dict[str, str]


def make_haystack(*, number: int, lines: int, seed: int, facts: int = 1) -> Haystack:
    """A haystack of `lines` lines.

    Args:
        number: which one of the seed, from 1.
        lines: length of the text.
        seed: random seed.
        facts: how many to hide; more than one have a name each, up to `len(NAMES)`.
    """
    rng = SeededRandom("niah", seed, number, lines, facts)
    pool = [" ".join(rng.choices(WORDS, rng.between(MIN_WORDS, MAX_WORDS))) for _ in range(min(lines, POOL_LINES))]
    haystack = rng.choices(pool, lines)
    names = rng.sample(NAMES, facts) if facts > 1 else [""]
    first = int(lines * FIRST_PLACE)
    places = rng.sample(range(first, max(int(lines * LAST_PLACE), first + facts)), facts)
    values = rng.sample(range(1_000_000, 10_000_000), facts)
    expected = {name: str(value) for name, value in zip(names, values, strict=True)}
    for place, (name, value) in zip(places, expected.items(), strict=True):
        haystack[place] = f"The magic number of {name} is {value}." if name else f"The magic number is {value}."
    if facts == 1:
        query = "What is the magic number in the text? Answer with the number only."
    else:
        query = f"What are the magic numbers of {', '.join(names)}? Answer as name=number, separated by commas."
    return Haystack(context="\n".join(haystack), query=query, expected=expected)


def is_correct(answer: str, expected: Mapping[str, str]) -> bool:
    """Whether an answer states every number, beside its name if it has one, and no other seven-digit number."""
    plain = _without_separators(answer)
    if set(re.findall(r"(?<!\d)\d{7}(?!\d)", plain)) != set(expected.values()):
        return False
    return all(
        not name or re.search(rf"\b{re.escape(name)}\b\D*{re.escape(value)}\b", plain)
        for name, value in expected.items()
    )


def _without_separators(answer: str) -> str:
    """Turn 1,234,567 into 1234567."""
    return re.sub(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)", lambda match: match[0].replace(",", ""), answer)


def read_facts(context: str) -> dict[str, str]:
    """The facts of a haystack, from its text alone."""
    facts: Sequence[tuple[str, str]] = re.findall(r"^The magic number(?: of (\w+))? is (\d+)\.$", context, re.MULTILINE)
    return dict(facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNiah:
    """Asks for one number (`facts` 1), or for the numbers of several names."""

    variant: str
    facts: int

    @property
    def name(self) -> str:
        return f"seed_niah/{self.variant}"

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """See `Task`."""
        lines = int(length / _tokens_per_line())
        if lines < MIN_LINES:
            raise too_short(self.name, length, minimum=length_of(MIN_LINES))
        haystack = make_haystack(number=index + 1, lines=lines, seed=seed, facts=self.facts)
        return Instance(
            task=self.name,
            length=length,
            seed=seed,
            index=index,
            context=haystack.context,
            query=haystack.query,
            answers=_answers(haystack.expected),
            scorer="facts",
        )

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """See `Task`."""
        assert isinstance(context, str)
        facts = read_facts(context)
        return _answers({name: facts[name] for name in sorted(facts, key=query.find)})


def _answers(expected: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" if name else value for name, value in expected.items())


def length_of(lines: int) -> int:
    """The smallest length in tokens whose haystack has this many lines."""
    length = math.ceil(lines * _tokens_per_line())
    return length + (int(length / _tokens_per_line()) < lines)  # the quotient may round down


@functools.cache
def _tokens_per_line() -> float:
    """The mean over many random lines, line ends included."""
    sample = make_haystack(number=1, lines=2000, seed=0).context
    return tokens(sample) / 2000
