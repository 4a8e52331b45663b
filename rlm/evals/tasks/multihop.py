"""Questions that require two to four documents out of a thousand, as in BrowseComp.

Every document describes an invented person, company or town. Facts are single sentences. Some appear in the document of
another subject, and rumours name the wrong people. All other documents are distractors: they state the same kinds of
facts, with names that share their parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rlm.evals.corpus.prose import passage
from rlm.evals.corpus.seeded_random import SeededRandom
from rlm.evals.corpus.tokens import tokens
from rlm.evals.corpus.words import ADJECTIVES, FIRST_NAMES, LAST_NAMES, NOUNS, PLACE_ENDS, PLACE_STARTS
from rlm.evals.task import Instance, too_short

MAX_DOCUMENTS: Final = 1000
DOCUMENT_TOKENS: Final = 160  # minimum of a document; a short length has fewer documents
MIN_DOCUMENTS: Final = 16
MIN_HOPS, MAX_HOPS = 2, 4
ELSEWHERE: Final = 0.3  # share of the facts that appear in the document of another subject

# A relation: the kinds that it joins, and the sentence that states it.
RELATIONS: Final[Mapping[str, tuple[str, str, str]]] = {
    "teacher": ("person", "person", "{subject} learned the trade from {object}."),
    "employer": ("person", "company", "{subject} earns a living at {object}."),
    "birthplace": ("person", "town", "{subject} was born in {object}."),
    "founder": ("company", "person", "{subject} was founded by {object}."),
    "seat": ("company", "town", "{subject} has its seat in {object}."),
    "mayor": ("town", "person", "{subject} is governed by {object} as its mayor."),
    "river": ("town", "river", "{subject} lies on the river {object}."),
}
_PRIZE: Final = "The {prize} of {year} went to {winner}."
_RUMOUR: Final = "The rumour that {other} was the teacher of {subject} is false."
_QUESTION: Final = "What is the name of {asked}? Answer with the name alone."

_STATED: Final = {
    relation: re.compile(
        re.escape(sentence).replace(r"\{subject\}", "(.+)").replace(r"\{object\}", "(.+)")  # one sentence at a time
    )
    for relation, (_, _, sentence) in RELATIONS.items()
}
_WON: Final = re.compile(r"The (.+ Prize) of (\d{4}) went to (.+)\.")
_STEP: Final = re.compile(rf"the ({'|'.join(RELATIONS)}) of (.+)")
_START: Final = re.compile(r"the winner of the (.+ Prize) of (\d{4})")

Facts = dict[tuple[str, str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Multihop:
    """Instances ask for 2, 3 and 4 hops in turn, each in a separate world."""

    name: str = "multihop"

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """See `Task`."""
        count = min(length // DOCUMENT_TOKENS, MAX_DOCUMENTS)
        if count < MIN_DOCUMENTS:
            raise too_short(self.name, length, minimum=MIN_DOCUMENTS * DOCUMENT_TOKENS)
        rng = SeededRandom(self.name, length, seed, index)
        names = _names(rng, count)
        facts = _facts(rng, names)
        prizes = {(f"{_title(rng)} Prize", str(rng.between(1950, 2020))): person for person in names["person"][::3]}
        asked, answer = _chain(rng, facts, prizes, names, MIN_HOPS + index % (MAX_HOPS - MIN_HOPS + 1))
        query = _QUESTION.format(asked=asked)
        return Instance(
            task=self.name,
            length=length,
            seed=seed,
            index=index,
            context=_documents(rng, names, facts, prizes, length - tokens(query)),
            query=query,
            answers=(answer,),
            scorer="phrase",
        )

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """See `Task`."""
        assert isinstance(context, str)
        facts: Facts = {}
        prizes: dict[tuple[str, str], str] = {}
        for sentence in re.split(r"(?<=\.)\s+|\n", context):
            if match := _WON.fullmatch(sentence):
                prizes[match[1], match[2]] = match[3]
            for relation, stated in _STATED.items():
                if match := stated.fullmatch(sentence):
                    facts[relation, match[1]] = match[2]
        asked = query.removeprefix("What is the name of ").partition("?")[0]
        steps = []
        while match := _STEP.fullmatch(asked):
            steps.append(match[1])
            asked = match[2]
        start = _START.fullmatch(asked)
        if start is None:
            raise ValueError(f"Not a question of {self.name}: {query}")
        found = prizes[start[1], start[2]]
        for relation in reversed(steps):
            found = facts[relation, found]
        return (found,)


def _names(rng: SeededRandom, count: int) -> dict[str, list[str]]:
    """Names of each kind. Half of the documents describe people, a quarter each companies and towns."""
    people = rng.sample(range(len(FIRST_NAMES) * len(LAST_NAMES)), count - 2 * (count // 4))
    places = rng.sample(range(len(PLACE_STARTS) * len(PLACE_ENDS)), 2 * (count // 4))
    settled = [PLACE_STARTS[n // len(PLACE_ENDS)] + PLACE_ENDS[n % len(PLACE_ENDS)] for n in places]
    companies: dict[str, None] = {}
    while len(companies) < count // 4:
        companies.setdefault(f"{_title(rng)} {rng.choice(('Works', 'Mills', 'Press', 'Foundry', 'Company'))}")
    return {
        "person": [f"{FIRST_NAMES[n // len(LAST_NAMES)]} {LAST_NAMES[n % len(LAST_NAMES)]}" for n in people],
        "company": list(companies),
        "town": settled[: count // 4],
        "river": settled[count // 4 :],
    }


def _title(rng: SeededRandom) -> str:
    return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}".title()


def _facts(rng: SeededRandom, names: Mapping[str, list[str]]) -> Facts:
    """An object for every relation of every subject; nobody teaches themselves."""
    facts: Facts = {}
    for relation, (kind, other, _) in RELATIONS.items():
        for subject in names[kind]:
            found = subject
            while found == subject:
                found = rng.choice(names[other])
            facts[relation, subject] = found
    return facts


def _chain(
    rng: SeededRandom,
    facts: Facts,
    prizes: Mapping[tuple[str, str], str],
    names: Mapping[str, list[str]],
    hops: int,
) -> tuple[str, str]:
    """A question and its answer: from the winner of a prize along relations, without visiting a name twice."""
    kind_of = {name: kind for kind, found in names.items() for name in found}
    while True:
        prize, year = rng.choice(list(prizes))
        found = prizes[prize, year]
        asked, seen = f"the winner of the {prize} of {year}", [found]
        for hop in range(1, hops):
            last = hop == hops - 1
            steps = [name for name, (kind, _, _) in RELATIONS.items() if kind == kind_of[found]]
            relation = rng.choice([step for step in steps if last or step != "river"])
            found = facts[relation, found]
            asked = f"the {relation} of {asked}"
            seen.append(found)
        if len(set(seen)) == len(seen):
            return asked, found


def _documents(
    rng: SeededRandom, names: Mapping[str, list[str]], facts: Facts, prizes: Mapping[tuple[str, str], str], budget: int
) -> str:
    """All documents in random order, padded with prose."""
    subjects = [*names["person"], *names["company"], *names["town"]]
    sentences: dict[str, list[str]] = {subject: [] for subject in subjects}
    for (relation, subject), found in facts.items():
        place = rng.choice(subjects) if rng.random() < ELSEWHERE else subject
        sentences[place].append(RELATIONS[relation][2].format(subject=subject, object=found))
    for (prize, year), winner in prizes.items():
        sentences[rng.choice(subjects)].append(_PRIZE.format(prize=prize, year=year, winner=winner))
    for subject in names["person"][::4]:
        other = rng.choice(names["person"])
        if other in (subject, facts["teacher", subject]):
            continue  # the rumour would be true, or nonsense
        sentences[rng.choice(subjects)].append(_RUMOUR.format(other=other, subject=subject))
    stated = sum(tokens(sentence) for found in sentences.values() for sentence in found)
    heads = [f"Document {number}: {subject}" for number, subject in enumerate(rng.shuffled(subjects), 1)]
    filling = max(0, budget - stated - sum(map(tokens, heads)) - 2 * len(heads)) // len(heads)
    texts = []
    for head in heads:
        text = passage(rng, filling - 10)  # 10: half a sentence, by which a passage is longer than requested
        for sentence in sentences[head.partition(": ")[2]]:
            text.insert(rng.between(0, len(text)), sentence)
        texts.append(f"{head}\n{' '.join(text)}")
    return "\n\n".join(texts)
