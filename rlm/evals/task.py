"""What every evaluation is made of: an instance, and the task that makes it.

An instance is a pure function of the task's name, a length, a seed and an index; its bytes are the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One question about one context, with its answers and the rule that scores them.

    Attributes:
        task: the task's name in the registry, such as `ruler/multikey_2`.
        length: tokens asked for, an estimate by `rlm.evals.corpus.tokens`.
        seed, index: which instance of the task and length it is; index counts from 0.
        context: a text, or the files of a folder by their path.
        query: what is asked, with the form that the answer shall have.
        answers: the right answer; several where the scorer's rule wants several.
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
        """The context as one text, for a model that is given it directly."""
        if isinstance(self.context, str):
            return self.context
        return "\n".join(f"=== {path} ===\n{text}" for path, text in self.context.items())

    @property
    def digest(self) -> str:
        """SHA-256 of all fields. Files of a folder count in the order of their paths."""
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
    """Makes instances, and finds their answers again.

    `make` raises ConfigError where an instance of that length cannot be. `gold` reads the answers from the text of an
    instance alone, so that a generator's belief about what it wrote can be checked.
    """

    @property
    def name(self) -> str:
        """The name in the registry."""

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """One instance."""

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """The right answers. Raises ValueError where the query is none of the task's."""
