"""Needle in a haystack, the field's first test: a few facts among a million lines of random words.

An instance is a pure function of the number of lines, the number of facts, the seed, and the trial. Its gold answer can
be read from its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rlm.evals.corpus.chance import Chance

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

MIN_WORDS, MAX_WORDS = 3, 8
FIRST, LAST = 0.4, 0.6  # the part of the lines among which the facts are hidden
POOL_LINES: Final = 20_000  # a haystack is drawn from so many random lines: drawing each word would take ten seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One instance: `number` from 1; `expected` holds each fact's number, under its name ("" for a single fact)."""

    number: int
    context: str
    query: str
    expected: dict[str, str]


def make_trial(*, number: int, lines: int, seed: int, facts: int = 1) -> Trial:
    """An instance; `facts` above 1 asks for the numbers of so many names, up to `len(NAMES)`."""
    chance = Chance("niah", seed, number, lines, facts)
    pool = [
        " ".join(chance.choices(WORDS, chance.between(MIN_WORDS, MAX_WORDS))) for _ in range(min(lines, POOL_LINES))
    ]
    haystack = chance.choices(pool, lines)
    names = chance.sample(NAMES, facts) if facts > 1 else [""]
    places = chance.sample(range(int(lines * FIRST), max(int(lines * LAST), int(lines * FIRST) + facts)), facts)
    values = chance.sample(range(1_000_000, 10_000_000), facts)
    expected = {name: str(value) for name, value in zip(names, values, strict=True)}
    for place, (name, value) in zip(places, expected.items(), strict=True):
        haystack[place] = f"The magic number of {name} is {value}." if name else f"The magic number is {value}."
    if facts == 1:
        query = "What is the magic number in the text? Answer with the number only."
    else:
        query = f"What are the magic numbers of {', '.join(names)}? Answer as name=number, separated by commas."
    return Trial(number=number, context="\n".join(haystack), query=query, expected=expected)


def is_correct(answer: str, expected: dict[str, str]) -> bool:
    """Whether an answer names every expected number, each beside its name if it has one, and no other of seven digits."""
    plain = _without_separators(answer)
    if set(re.findall(r"(?<!\d)\d{7}(?!\d)", plain)) != set(expected.values()):
        return False
    return all(
        not name or re.search(rf"\b{re.escape(name)}\b\D*{re.escape(value)}\b", plain)
        for name, value in expected.items()
    )


def _without_separators(answer: str) -> str:
    """1,234,567 is the same number as 1234567."""
    return re.sub(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)", lambda match: match[0].replace(",", ""), answer)


def gold(context: str) -> dict[str, str]:
    """The expected answer, read from the text alone."""
    found: Sequence[tuple[str, str]] = re.findall(r"^The magic number(?: of (\w+))? is (\d+)\.$", context, re.MULTILINE)
    return dict(found)
