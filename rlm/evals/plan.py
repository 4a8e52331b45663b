"""What an evaluation is: which tasks, methods, lengths and models; as data that a resumed one reads back."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

from rlm.config import Limits
from rlm.errors import ConfigError
from rlm.evals.methods.lookup import asks_models, method
from rlm.evals.scripted.oracle import Oracle
from rlm.evals.tasks.oolong import Oolong
from rlm.evals.tasks.pairs import Pairs
from rlm.models.base import Model
from rlm.models.openai import OpenAIModel
from rlm.models.scripted import ScriptedModel
from rlm.run.clients import model_by_name
from rlm.testing.policies import scripted_model_for

from .registry import tasks
from .results import Job, Key, Row
from .scripted import policies
from .task import Instance, Task
from .user_data import read_jsonl, read_longbench, read_oolong

SCRIPTED: Final = "scripted"
SYSTEM_ONLY: Final = (
    "This run used the scripted model: it measures the system (containers, channel, loop), not intelligence."
)
NO_MODEL: Final = "This run used no model: it shows what needs no intelligence."
HALF: Final = (
    "This run used a real model as {real} beside a scripted {scripted}: tokens and mistakes of the former are real."
)
READERS: Final[Mapping[str, Callable[[Path], Iterator[Instance]]]] = {
    "data": read_jsonl,
    "longbench": read_longbench,
    "oolong_file": read_oolong,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides about the rows of an evaluation. `n` instances of each task and length; of a file, its first `n`.

    `accuracy` is the oracle's, with the scripted model. `files` are (reader, path). `base_url` is the server of real models,
    as it was when the evaluation began; `sub_base_url` that of the sub-model, where it has its own.
    """

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("rlm:1",)
    lengths: tuple[int, ...] = (8192,)
    n: int = 10
    seed: int = 7
    model: str = SCRIPTED
    sub_model: str = SCRIPTED
    base_url: str | None = None
    sub_base_url: str | None = None
    accuracy: float = 1.0
    window: int | None = None
    max_cost_usd: float | None = None
    max_iterations: int | None = None
    trec: str | None = None
    files: tuple[tuple[str, str], ...] = ()

    @property
    def scripted(self) -> bool:
        """Whether the scripted model plays root, sub-model, or both."""
        return SCRIPTED in (self.model, self.sub_model)

    @property
    def asks_models(self) -> bool:
        """Whether any of its methods does."""
        return any(map(asks_models, self.methods))

    @property
    def measures(self) -> str:
        """Whose intelligence, if any."""
        if not self.asks_models:
            return NO_MODEL
        match self.model == SCRIPTED, self.sub_model == SCRIPTED:
            case True, True:
                return SYSTEM_ONLY
            case True, False:
                return HALF.format(real="sub-model", scripted="root model")
            case False, True:
                return HALF.format(real="root model", scripted="sub-model")
        return "This run used real models."

    def as_json(self) -> dict[str, Any]:
        given = asdict(self)
        if self.sub_model != SCRIPTED or not self.asks_models:
            del given["accuracy"]  # there is no oracle
        return given

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """What `as_json` gave. Raises ConfigError where it is something else."""
        try:
            if "tasks" not in settings:
                raise ConfigError("The folder is none of `rlm eval`: its eval.json holds no plan.")
            given = {name: value for name, value in settings.items() if name in {field.name for field in fields(cls)}}
            for name in ("tasks", "methods", "lengths"):
                given[name] = tuple(given[name])
            given["files"] = tuple((kind, path) for kind, path in given["files"])
            return cls(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"eval.json lacks what it should hold: {error}") from error

    def check(self) -> None:
        """Refuse what cannot be, before anything is written: too short or too great a length too. Raises ConfigError."""
        if not self.tasks and not self.files:
            raise ConfigError(f"There is no task: give some of {', '.join(tasks())}, or --data FILE.")
        known = self._tasks()
        for name in self.tasks:
            if name not in known:
                raise ConfigError(f"There is no task {name!r}; there are {', '.join(known)}.")
        for name in self.methods:
            method(name)
        if self.scripted and self.asks_models:
            unplayed = [name for name in self.tasks if _policy(name) is None] + [path for _, path in self.files]
            unplayable = [name for name in self.methods if asks_models(name) and not name.startswith("rlm:")]
            if unplayed or unplayable:
                raise ConfigError(
                    f"The scripted model does not play {', '.join([*unplayed, *unplayable])}: give a model with --model."
                )
        for name in self.tasks:
            for length in {min(self.lengths), max(self.lengths)}:
                known[name].make(length=length, seed=self.seed, index=0)
        for kind, path in self.files:
            if next(READERS[kind](Path(path)), None) is None:
                raise ConfigError(f"There is no instance in {path}: give a file that has one.")
        self.limits()

    def jobs(self) -> Iterator[Job]:
        """In the order in which they are done: all methods of one instance after each other.

        Raises:
            ConfigError: a file cannot be read, or two of them have instances of one name.
        """
        known = self._tasks()
        for name in self.tasks:
            for length in self.lengths:
                for index in range(self.n):
                    make = partial(known[name].make, length=length, seed=self.seed, index=index)
                    for way in self.methods:
                        yield Job(key=Key(name, length, self.seed, index, way), make=make)
        taken = set[tuple[str, int]]()
        for kind, path in self.files:
            for instance, _ in zip(READERS[kind](Path(path)), range(self.n), strict=False):
                if (instance.task, instance.index) in taken:
                    raise ConfigError(
                        f"{path} has an instance {instance.index + 1} of {instance.task}, as a file before it has: give "
                        "them other names, or join them into one."
                    )
                taken.add((instance.task, instance.index))
                for way in self.methods:
                    key = Key(instance.task, instance.length, instance.seed, instance.index, way)
                    yield Job(key=key, make=partial(_same, instance))

    def check_files(self, jobs: Iterable[Job], rows: Iterable[Row]) -> None:
        """Refuse to go on where an answered instance of a file is another one by now. Raises ConfigError.

        A changed text has another length, and with it another key: the place in the file says which instance it is.
        """
        made = {(job.key.task, job.key.index): job.make for job in jobs if job.key.task not in self.tasks}
        answered = {(row.task, row.index): row.digest for row in rows if row.task not in self.tasks and row.digest}
        for place, digest in answered.items():
            if place not in made or made[place]().digest != digest:
                task, index = place
                raise ConfigError(
                    f"Instance {index} of {task} is not the same as when it was answered: bring its file back as it was, or "
                    "begin another evaluation."
                )

    def models(self) -> Models:
        """What plays root and sub-model. There are clients only where a method asks them.

        Raises:
            ConfigError: there is no key, or the server is another one than it was.
        """
        root = sub = None
        if self.asks_models and self.model != SCRIPTED:
            root = model_by_name(self.model)
        if self.asks_models and self.sub_model != SCRIPTED:
            same = self.sub_model == self.model and self.sub_base_url is None
            sub = root if same else model_by_name(self.sub_model, sub_base_url=self.sub_base_url)
        found = Models(plan=self, tasks=self._tasks(), root=root, sub=sub)
        if self.base_url not in (None, found.base_url):
            raise ConfigError(
                f"The evaluation asked models at {self.base_url}, and would ask them at {found.base_url} now: set "
                "OPENAI_BASE_URL back."
            )
        return found

    def limits(self) -> Limits:
        """Of each RLM run. Raises ConfigError."""
        limits = Limits()
        for name in ("max_cost_usd", "max_iterations"):
            value = getattr(self, name)
            try:
                limits = limits if value is None else replace(limits, **{name: value})
            except ConfigError as error:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{flag} is {value}, which cannot be: give a number above 0, or leave it out."
                ) from error
        return limits

    def _tasks(self) -> Mapping[str, Task]:
        return tasks(trec=None if self.trec is None else Path(self.trec))


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Root model and sub-model by the name of a task. `root` and `sub` are clients; None where the scripted model plays."""

    plan: Plan
    tasks: Mapping[str, Task]
    root: OpenAIModel | None
    sub: OpenAIModel | None

    def __call__(self, task: str) -> tuple[Model, Model]:
        root, sub = self.root or _policy(task), self.sub or self._labeller(task) or _policy(task)
        assert root is not None
        assert sub is not None
        return root, sub

    def _labeller(self, task: str) -> Model | None:
        """The sub-model of a task about labels: it knows those of the task's own questions."""
        match self.tasks[task]:
            case Oolong(questions=questions) | Pairs(questions=questions):
                return Oracle(questions=questions(), accuracy=self.plan.accuracy, seed=self.plan.seed).model()
        return None

    @property
    def clients(self) -> set[Model]:
        return {client for client in (self.root, self.sub) if client is not None}

    @property
    def base_url(self) -> str | None:
        """The server that both have, or the root's; None where there is none."""
        client = self.root or (None if self.plan.sub_base_url else self.sub)
        return None if client is None else client.base_url


def environment_info() -> dict[str, str]:
    """What a number is cited with, beside the plan: versions, machine, day."""
    return {
        "rlm": version("rlm"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "began": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _same(instance: Instance) -> Instance:
    return instance


def _policy(task: str) -> ScriptedModel | None:
    """The scripted root of a task, which never sees an answer; None where there is none."""
    match task.partition("/"):
        case ("seed_niah", _, "needle" | "facts" as kind):
            return scripted_model_for(kind)
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


def length_name(length: int) -> str:
    """8192 is 8k."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if length >= size and length % size == 0:
            return f"{length // size}{unit}"
    return f"{length:,}"
