"""The instances of an evaluation, and the tasks that generate them. Imports errors.

An instance is a pure function of the task's name, a length, a seed and an index. Its bytes are the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from rlm.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One question about one context, with its answers and the rule that scores them.

    Attributes:
        task: the task's name in the registry, such as `ruler/multikey_2`.
        length: requested size in tokens, as estimated by `rlm.evals.corpus.tokens`.
        seed: random seed.
        index: position among the instances of this task, length and seed, from 0.
        context: a text, or the files of a folder by path.
        query: the question, which states the form of the answer.
        answers: the correct answer, or several if the scorer's rule takes several.
        scorer: a name in `rlm.evals.scorers.SCORERS`.
    """

    task: str
    length: int
    seed: int
    index: int
    context: str | Mapping[str, str]
    query: str
    answers: tuple[str, ...]
    scorer: str

    @property
    def text(self) -> str:
        """The context as one text, for a model that reads it directly."""
        if isinstance(self.context, str):
            return self.context
        return "\n".join(f"=== {path} ===\n{text}" for path, text in self.context.items())

    @property
    def digest(self) -> str:
        """SHA-256 of all fields, with the files of a folder sorted by path."""
        digest = hashlib.sha256()
        for text in self._texts():
            data = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data))
            digest.update(data)
        return digest.hexdigest()

    def _texts(self) -> Iterator[str]:
        yield from (self.task, str(self.length), str(self.seed), str(self.index))
        if isinstance(self.context, str):
            yield self.context
        else:
            for path in sorted(self.context):
                yield from (path, self.context[path])
        yield from (self.query, self.scorer, *self.answers)


class Task(Protocol):
    """Makes instances, and derives their answers again from the text."""

    @property
    def name(self) -> str:
        """The name in the registry."""

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """Make one instance. Raises ConfigError if the length is too short or too long."""

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """The correct answers, read from the text alone: an independent check of the generator.

        Raises:
            ValueError: the query is not a question of this task.
        """


def too_short(name: str, length: int, *, minimum: int | None = None) -> ConfigError:
    """The error for a length that cannot hold an instance."""
    advice = "use a longer one" if minimum is None else f"use at least {minimum} tokens"
    return ConfigError(f"Length {length} is too short for {name}: {advice}.")


def too_long(name: str, length: int) -> ConfigError:
    """The error for a length that would need more distinct names than exist."""
    return ConfigError(f"Length {length} is too long for {name}: use a shorter one.")
