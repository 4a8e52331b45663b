"""What an evaluation is: which tasks, methods, lengths and models; as data that a resumed one reads back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from rlm.config import Limits
from rlm.errors import ConfigError
from rlm.models.base import Model
from rlm.models.openai import OpenAIModel
from rlm.models.policies import playing
from rlm.models.scripted import ScriptedModel

from . import policies
from .methods import method
from .oracle import Oracle
from .questions import built_in
from .registry import tasks
from .results import Job, Key
from .task import Instance
from .user_data import read_jsonl, read_longbench, read_oolong

SCRIPTED: Final = "scripted"
READERS: Final[Mapping[str, Callable[[Path], Iterator[Instance]]]] = {
    "data": read_jsonl,
    "longbench": read_longbench,
    "oolong_file": read_oolong,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides about the rows of an evaluation. `n` instances of each task and length; of a file, its first `n`.

    `accuracy` is the oracle's, with the scripted model. `files` are (reader, path).
    """

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("rlm:1",)
    lengths: tuple[int, ...] = (8192,)
    n: int = 10
    seed: int = 7
    model: str = SCRIPTED
    sub_model: str = SCRIPTED
    accuracy: float = 1.0
    window: int | None = None
    max_cost_usd: float | None = None
    max_iterations: int | None = None
    trec: str | None = None
    files: tuple[tuple[str, str], ...] = ()

    @property
    def scripted(self) -> bool:
        """Whether it costs nothing and says nothing about models."""
        return SCRIPTED in (self.model, self.sub_model)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """What `as_json` gave. Raises ConfigError where it is something else."""
        try:
            given = {name: value for name, value in settings.items() if name in {field.name for field in fields(cls)}}
            for name in ("tasks", "methods", "lengths"):
                given[name] = tuple(given[name])
            given["files"] = tuple((kind, path) for kind, path in given["files"])
            return cls(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"eval.json lacks what it should hold: {error}") from error

    def check(self) -> None:
        """Refuse, before anything is made, what cannot be. Raises ConfigError."""
        if not self.tasks and not self.files:
            raise ConfigError(f"There is no task: give some of {', '.join(tasks())}, or --data FILE.")
        known = self._tasks()
        for name in self.tasks:
            if name not in known:
                raise ConfigError(f"There is no task {name!r}; there are {', '.join(known)}.")
        for name in self.methods:
            method(name)
        if self.scripted:
            unplayed = [name for name in self.tasks if _policy(name) is None] + [path for _, path in self.files]
            unplayable = [name for name in self.methods if name not in ("keyword",) and not name.startswith("rlm:")]
            if unplayed or unplayable:
                raise ConfigError(
                    f"The scripted model does not play {', '.join([*unplayed, *unplayable])}: give a model with --model."
                )

    def jobs(self) -> Iterator[Job]:
        """In the order in which they are done: all methods of one instance after each other."""
        known = self._tasks()
        for name in self.tasks:
            for length in self.lengths:
                for index in range(self.n):
                    make = partial(known[name].make, length=length, seed=self.seed, index=index)
                    for way in self.methods:
                        yield Job(key=Key(name, length, self.seed, index, way), make=make)
        for kind, path in self.files:
            for instance, _ in zip(READERS[kind](Path(path)), range(self.n), strict=False):
                for way in self.methods:
                    key = Key(instance.task, instance.length, instance.seed, instance.index, way)
                    yield Job(key=key, make=partial(_same, instance))

    def models(self) -> Callable[[str], tuple[Model, Model]]:
        """Root model and sub-model by the name of a task; one client serves all. Raises ConfigError."""
        oracle = Oracle(questions=built_in(), accuracy=self.accuracy, seed=self.seed).model() if self.scripted else None
        named = {name: OpenAIModel(name) for name in {self.model, self.sub_model} - {SCRIPTED}}

        def of_task(task: str) -> tuple[Model, Model]:
            played = _policy(task) if self.scripted else None
            root = played if self.model == SCRIPTED else named[self.model]
            labels = task.startswith("oolong")
            sub = (oracle if labels else played) if self.sub_model == SCRIPTED else named[self.sub_model]
            assert root is not None
            assert sub is not None
            return root, sub

        return of_task

    def limits(self) -> Limits:
        """Of each RLM run."""
        given = Limits(max_cost_usd=self.max_cost_usd)
        return given if self.max_iterations is None else replace(given, max_iterations=self.max_iterations)

    def _tasks(self) -> Mapping[str, Any]:
        return tasks(trec=None if self.trec is None else Path(self.trec))


def _same(instance: Instance) -> Instance:
    return instance


def _policy(task: str) -> ScriptedModel | None:
    """The scripted root of a task, which never sees an answer; None where there is none."""
    match task.partition("/"):
        case ("seed_niah", _, "needle" | "facts" as kind):
            return playing(kind)
        case ("oolong" | "oolong_pairs", _, _):
            return policies.root_model(task)
        case ("ruler", _, _):
            return policies.ruler_model()
    return None


def lengths_of(texts: Sequence[str]) -> tuple[int, ...]:
    """`8k,32k` or `8192`; k is 1,024 tokens, m is 1,048,576. Raises ConfigError."""
    found = []
    for text in ",".join(texts).split(","):
        parsed = re.fullmatch(r"(\d+)([km]?)", text.strip().lower())
        if parsed is None or int(parsed[1]) == 0:
            raise ConfigError(f"{text!r} is no length in tokens: give numbers such as 8k,32k or 8192.")
        found.append(int(parsed[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[parsed[2]])
    return tuple(dict.fromkeys(found))
