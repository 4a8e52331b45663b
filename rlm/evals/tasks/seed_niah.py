"""The needle in a million random lines (`rlm.evals.tasks.niah`, `make niah`) as tasks of the harness."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rlm.errors import ConfigError
from rlm.evals.corpus.tokens import tokens
from rlm.evals.results import Job, Key
from rlm.evals.task import Instance

from . import niah

FACTS: Final = 5
MIN_LINES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNiah:
    """One number (`facts` 1), or the numbers of several names."""

    variant: str
    facts: int

    @property
    def name(self) -> str:
        return f"seed_niah/{self.variant}"

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """See `Task`."""
        lines = int(length / _tokens_of_a_line())
        if lines < MIN_LINES:
            raise ConfigError(f"{self.name} needs {MIN_LINES} lines at least: ask for a greater length.")
        return _instance(self.name, length, lines, seed, index, self.facts)

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """See `Task`."""
        assert isinstance(context, str)
        found = niah.gold(context)
        return _stated({name: found[name] for name in sorted(found, key=query.find)})


def job(*, index: int, lines: int, seed: int, facts: int, method: str) -> Job:
    """A trial of `make niah`, whose size is given in lines."""
    name = f"seed_niah/{'needle' if facts == 1 else 'facts'}"
    length = round(lines * _tokens_of_a_line())
    make = functools.partial(_instance, name, length, lines, seed, index, facts)
    return Job(key=Key(name, length, seed, index, method), make=make)


def _instance(name: str, length: int, lines: int, seed: int, index: int, facts: int) -> Instance:
    trial = niah.make_trial(number=index + 1, lines=lines, seed=seed, facts=facts)
    return Instance(
        task=name,
        length=length,
        seed=seed,
        index=index,
        context=trial.context,
        query=trial.query,
        answers=_stated(trial.expected),
        scorer="facts",
    )


def _stated(expected: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" if name else value for name, value in expected.items())


@functools.cache
def _tokens_of_a_line() -> float:
    """The mean over many random lines, with their ends."""
    sample = niah.make_trial(number=1, lines=2000, seed=0).context
    return tokens(sample) / 2000


VARIANTS: Final = (SeedNiah(variant="needle", facts=1), SeedNiah(variant="facts", facts=FACTS))
