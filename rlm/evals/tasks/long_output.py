"""Answers about as long as their contexts: from 2^18 tokens on, longer than any reply of a model.

So a model has to build the answer in a variable. Code alone solves `sort` and `join`; `label` requires reading every line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from rlm.evals.corpus.questions import NAMES, built_in
from rlm.evals.corpus.seeded_random import SeededRandom
from rlm.evals.corpus.tokens import tokens
from rlm.evals.corpus.words import FIRST_NAMES, LAST_NAMES, NOUNS, PLACE_ENDS, PLACE_STARTS
from rlm.evals.task import Instance, too_long, too_short

Variant = Literal["sort", "join", "label"]
Item = TypeVar("Item")

MIN_LINES: Final = 8
LINE_NUMBERS: Final = range(100_000, 1_000_000)
ORDERS_PER_CUSTOMER: Final = 4  # the average
MIN_LINE_TOKENS: Final = 8
MAX_LINE_TOKENS: Final = 24  # a table may leave this many tokens of a length unused
_QUERIES: Final[Mapping[Variant, str]] = {
    "sort": (
        "Write down all parcels, the heaviest first, and of two equally heavy ones that with the lower number first. One "
        "parcel a line, in the form `number;town;grams`, such as `100001;Bergham;950`, and nothing else."
    ),
    "join": (
        "Write down all orders in the order of their numbers, with the customer's name in place of the customer's number. "
        "One order a line, in the form `order;name;pieces article`, such as `100001;Ada Fenwick;3 kettle`, and nothing else."
    ),
    "label": (
        "Each question asks for one of six kinds of answer: an abbreviation or what it stands for (ABBR), a description, "
        "reason or manner (DESC), a thing, animal or other entity (ENTY), a person (HUM), a place (LOC), or a number or "
        "date (NUM). Write down the kind for every question, in the order of the text. One question a line, in the form "
        "`number;kind`, such as `100001;LOC`, and nothing else."
    ),
}
_PARCEL: Final = re.compile(r"^Parcel (\d+) goes to .+ in (\w+) and weighs (\d+) grams\.$", re.MULTILINE)
_CUSTOMER: Final = re.compile(r"^Customer (\d+): (.+)$", re.MULTILINE)
_ORDER: Final = re.compile(r"^Order (\d+): customer (\d+), article (\w+), pieces (\d+)$", re.MULTILINE)
_QUESTION: Final = re.compile(r"^(\d+): (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongOutput:
    """One variant: thousands of lines, and an answer with a line for each."""

    variant: Variant

    @property
    def name(self) -> str:
        return f"long_output/{self.variant}"

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """See `Task`."""
        rng, query = SeededRandom(self.name, length, seed, index), _QUERIES[self.variant]
        budget = length - tokens(query)
        if budget // MIN_LINE_TOKENS > len(LINE_NUMBERS):
            raise too_long(self.name, length)
        match self.variant:
            case "sort":
                parcels = _fill(budget, _numbers(rng, budget), lambda number: _parcel(rng, number), _show_parcel)
                lines, answers = [_show_parcel(parcel) for parcel in parcels], _sorted(parcels)
            case "join":
                lines, answers = _tables(rng, budget)
            case "label":
                asked = _fill(budget, _numbers(rng, budget), lambda number: _labelled(rng, number), _show_question)
                lines = [_show_question(question) for question in asked]
                answers = tuple(f"{number};{kind}" for number, _, kind in asked)
        if len(lines) < MIN_LINES:
            raise too_short(self.name, length)
        return Instance(
            task=self.name,
            length=length,
            seed=seed,
            index=index,
            context="\n".join(lines),
            query=query,
            answers=answers,
            scorer="lines",
        )

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """See `Task`."""
        assert isinstance(context, str)
        match self.variant:
            case "sort":
                return _sorted([(number, town, int(grams)) for number, town, grams in _PARCEL.findall(context)])
            case "join":
                return _joined(dict(_CUSTOMER.findall(context)), _ORDER.findall(context))
            case "label":
                kinds = {name: kind for kind, name in NAMES.items()}
                label_of = built_in().label_of
                return tuple(f"{number};{kinds[label_of[text]]}" for number, text in _QUESTION.findall(context))


def _numbers(rng: SeededRandom, budget: int) -> Iterator[str]:
    """Distinct numbers for more lines than `budget` tokens hold."""
    return (str(number) for number in rng.sample(LINE_NUMBERS, max(0, budget // MIN_LINE_TOKENS)))


def _fill(budget: int, numbers: Iterator[str], make: Callable[[str], Item], show: Callable[[Item], str]) -> list[Item]:
    """As many items as fit into `budget` tokens."""
    made = list[Item]()
    for number in numbers:
        item = make(number)
        budget -= tokens(f"{show(item)}\n")
        if budget < 0:
            break
        made.append(item)
    return made


def _parcel(rng: SeededRandom, number: str) -> tuple[str, str, int]:
    return number, rng.choice(PLACE_STARTS) + rng.choice(PLACE_ENDS), 50 * rng.between(1, 400)


def _show_parcel(parcel: tuple[str, str, int]) -> str:
    number, town, grams = parcel
    return f"Parcel {number} goes to {LAST_NAMES[int(number) % len(LAST_NAMES)]} in {town} and weighs {grams} grams."


def _sorted(parcels: list[tuple[str, str, int]]) -> tuple[str, ...]:
    ranked = sorted(parcels, key=lambda parcel: (-parcel[2], int(parcel[0])))
    return tuple(f"{number};{town};{grams}" for number, town, grams in ranked)


def _tables(rng: SeededRandom, budget: int) -> tuple[list[str], tuple[str, ...]]:
    """Lines of customers and orders in random order, and the answer."""
    customers: dict[str, str] = {}
    orders = list[tuple[str, str, str, str]]()
    lines, known = list[str](), list[str]()
    for number in _numbers(rng, budget):
        if len(customers) * ORDERS_PER_CUSTOMER <= len(orders):
            known.append(number)
            customers[number] = f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
            line = f"Customer {number}: {customers[number]}"
        else:
            customer = rng.choice(known)
            orders.append((number, customer, rng.choice(NOUNS), str(rng.between(1, 99))))
            line = f"Order {number}: customer {customer}, article {orders[-1][2]}, pieces {orders[-1][3]}"
        lines.append(line)
        budget -= tokens(f"{line}\n")
        if budget < MAX_LINE_TOKENS:
            break
    return rng.shuffled(lines), _joined(customers, orders)


def _joined(customers: Mapping[str, str], orders: list[tuple[str, str, str, str]]) -> tuple[str, ...]:
    ranked = sorted(orders, key=lambda order: int(order[0]))
    return tuple(f"{number};{customers[customer]};{pieces} {article}" for number, customer, article, pieces in ranked)


def _labelled(rng: SeededRandom, number: str) -> tuple[str, str, str]:
    kind = rng.choice(tuple(NAMES))
    return number, rng.choice(built_in().by_label[NAMES[kind]]), kind


def _show_question(question: tuple[str, str, str]) -> str:
    return f"{question[0]}: {question[1]}"


VARIANTS: Final = tuple(LongOutput(variant=variant) for variant in _QUERIES)
