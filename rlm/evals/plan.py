"""The plan of an evaluation: tasks, methods, lengths and models, as data that a resumed evaluation reads back."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

from rlm.config import Limits
from rlm.errors import ConfigError
from rlm.evals.methods.lookup import find_method, uses_models
from rlm.evals.scripted.oracle import Oracle
from rlm.evals.tasks.oolong import Oolong
from rlm.evals.tasks.pairs import Pairs
from rlm.models.base import Model
from rlm.models.openai import OpenAIModel
from rlm.models.scripted import ScriptedModel
from rlm.run.clients import model_by_name
from rlm.testing import scripted_model_for

from .registry import load_tasks
from .results import Job, JobKey, ResultRow
from .scripted import policies
from .task import Instance, Task
from .user_data import read_jsonl, read_longbench, read_oolong

SCRIPTED: Final = "scripted"
SCRIPTED_NOTE: Final = (
    "This run used the scripted model: it measures the system (containers, channel, loop), not intelligence."
)
NO_MODEL_NOTE: Final = "This run used no model: it shows what needs no intelligence."
MIXED_NOTE: Final = (
    "This run used a real model as {real} beside a scripted {scripted}: only the {real}'s tokens and mistakes are real."
)
REAL_NOTE: Final = "This run used real models."
FILE_READERS: Final[Mapping[str, Callable[[Path], Iterator[Instance]]]] = {
    "data": read_jsonl,
    "longbench": read_longbench,
    "oolong_file": read_oolong,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that determines the rows of an evaluation.

    Attributes:
        tasks: names in the registry.
        methods: see `rlm.evals.methods.lookup`.
        lengths: lengths of the generated contexts, in estimated tokens.
        n: instances of each task and length, and of each file.
        indices: instances of single tasks, in place of the first `n`.
        seed: random seed of the instances.
        model, sub_model: names of models; `scripted` is the scripted model.
        base_url: server of the real models when the evaluation started.
        sub_base_url: server of the sub-model, if it has its own.
        model_options, sub_model_options: options of the real models. See `rlm.models.options`.
        accuracy: share of lines that the oracle labels correctly, beside the scripted model.
        window: context window of the root model in tokens, for `direct` and `map_reduce`.
        max_cost_usd, max_iterations: limits of each RLM run.
        facts: names that an instance of `seed_niah/facts` asks for.
        trec: path of the TREC questions.
        files: (reader, path) of instances from files.
    """

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("rlm:1",)
    lengths: tuple[int, ...] = (8192,)
    n: int = 10
    indices: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seed: int = 7
    model: str = SCRIPTED
    sub_model: str = SCRIPTED
    base_url: str | None = None
    sub_base_url: str | None = None
    model_options: Mapping[str, object] = field(default_factory=dict)
    sub_model_options: Mapping[str, object] = field(default_factory=dict)
    accuracy: float = 1.0
    window: int | None = None
    max_cost_usd: float | None = None
    max_iterations: int | None = None
    facts: int | None = None
    trec: str | None = None
    files: tuple[tuple[str, str], ...] = ()

    @property
    def scripted(self) -> bool:
        """Whether the scripted model plays the root model, the sub-model, or both."""
        return SCRIPTED in (self.model, self.sub_model)

    @property
    def uses_models(self) -> bool:
        """Whether any method calls a model."""
        return any(map(uses_models, self.methods))

    @property
    def model_note(self) -> str:
        """The sentence that opens a report: whose intelligence the scores measure."""
        if not self.uses_models:
            return NO_MODEL_NOTE
        match self.model == SCRIPTED, self.sub_model == SCRIPTED:
            case True, True:
                return SCRIPTED_NOTE
            case True, False:
                return MIXED_NOTE.format(real="sub-model", scripted="root model")
            case False, True:
                return MIXED_NOTE.format(real="root model", scripted="sub-model")
        return REAL_NOTE

    def to_settings(self) -> dict[str, Any]:
        """The plan as JSON, for `eval.json`."""
        settings = asdict(self)
        if self.sub_model != SCRIPTED or not self.uses_models:
            del settings["accuracy"]  # no oracle takes part
        return settings

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """The inverse of `to_settings`; ignores other keys.

        Raises:
            ConfigError: the settings hold no valid plan.
        """
        try:
            if "tasks" not in settings:
                raise ConfigError("eval.json contains no plan. Use a folder created by `rlm eval` or `rlm niah`.")
            names = {each.name for each in fields(cls)}
            plan = {name: value for name, value in settings.items() if name in names}
            for name in ("tasks", "methods", "lengths"):
                plan[name] = tuple(plan[name])
            plan["files"] = tuple((kind, path) for kind, path in plan["files"])
            return cls(**plan)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"eval.json contains an invalid plan: {error}") from error

    def check(self) -> None:
        """Validate the plan before anything is written, the shortest and longest length included.

        Raises:
            ConfigError: a task, method, length, file or limit is invalid.
        """
        if not self.tasks and not self.files:
            raise ConfigError(f"No task given. Choose from {', '.join(load_tasks())}, or pass --data FILE.")
        known = self._tasks()
        for name in self.tasks:
            if name not in known:
                raise ConfigError(f"Unknown task {name!r}. Choose from {', '.join(known)}.")
        for name in self.methods:
            find_method(name)
        if self.scripted and self.uses_models:
            self._check_scripted()
        for name in self.tasks:
            for length in {min(self.lengths), max(self.lengths)}:
                known[name].make(length=length, seed=self.seed, index=0)
        for kind, path in self.files:
            if next(FILE_READERS[kind](Path(path)), None) is None:
                raise ConfigError(f"{path} contains no instance.")
        self.limits()

    def _check_scripted(self) -> None:
        tasks = [name for name in self.tasks if _scripted_root(name) is None] + [path for _, path in self.files]
        methods = [name for name in self.methods if uses_models(name) and not name.startswith("rlm:")]
        for kind, names in (("task", tasks), ("method", methods)):
            if names:
                listed = ", ".join(f"`{name}`" for name in names)
                raise ConfigError(
                    f"The scripted model does not support the {kind}{'s' * (len(names) > 1)} {listed}. Choose a model with "
                    "--model."
                )

    def jobs(self) -> Iterator[Job]:
        """The jobs in running order: all methods of an instance follow one another.

        Raises:
            ConfigError: a file is unreadable, or two files have instances of the same name.
        """
        known = self._tasks()
        for name in self.tasks:
            for length in self.lengths:
                for index in self.indices.get(name, range(self.n)):
                    make = partial(known[name].make, length=length, seed=self.seed, index=index)
                    for method in self.methods:
                        yield Job(key=JobKey(name, length, self.seed, index, method), make=make)
        seen = set[tuple[str, int]]()
        for kind, path in self.files:
            for instance, _ in zip(FILE_READERS[kind](Path(path)), range(self.n), strict=False):
                if (instance.task, instance.index) in seen:
                    raise ConfigError(
                        f"{path}: instance {instance.index + 1} of {instance.task} exists in an earlier file too. Rename "
                        "one of the files or join them."
                    )
                seen.add((instance.task, instance.index))
                for method in self.methods:
                    key = JobKey(instance.task, instance.length, instance.seed, instance.index, method)
                    yield Job(key=key, make=partial(_return, instance))

    def check_files(self, jobs: Iterable[Job], rows: Iterable[ResultRow]) -> None:
        """Check that the answered instances of files are unchanged.

        Compares by position, because a changed text has another length and with it another key.

        Raises:
            ConfigError: an instance differs from the one that was answered.
        """
        current = {(job.key.task, job.key.index): job.make for job in jobs if job.key.task not in self.tasks}
        answered = {(row.task, row.index): row.digest for row in rows if row.task not in self.tasks and row.digest}
        for position, digest in answered.items():
            if position not in current or current[position]().digest != digest:
                task, index = position
                raise ConfigError(
                    f"Instance {index} of {task} has changed since it was answered. Restore its file, or start another "
                    "evaluation."
                )

    def models(self) -> TaskModels:
        """The root model and sub-model of each task. Creates clients only if a method calls models.

        Raises:
            ConfigError: no key is set, or the server is not the one that the evaluation started with.
        """
        root = sub = None
        if self.uses_models and self.model != SCRIPTED:
            root = model_by_name(self.model, options=self.model_options)
        if self.uses_models and self.sub_model != SCRIPTED:
            shared = self.sub_model == self.model and self.sub_base_url is None
            shared = shared and self.sub_model_options == self.model_options
            server, options = self.sub_base_url, self.sub_model_options
            sub = root if shared else model_by_name(self.sub_model, sub_base_url=server, options=options)
        models = TaskModels(plan=self, tasks=self._tasks(), root=root, sub=sub)
        if self.base_url not in (None, models.base_url):
            raise ConfigError(
                f"The evaluation used the server {self.base_url}, but OPENAI_BASE_URL now selects {models.base_url}. "
                "Restore OPENAI_BASE_URL."
            )
        return models

    def limits(self) -> Limits:
        """The limits of each RLM run. Raises ConfigError if one is invalid."""
        limits = Limits()
        for name in ("max_cost_usd", "max_iterations"):
            value = getattr(self, name)
            try:
                limits = limits if value is None else replace(limits, **{name: value})
            except ConfigError as error:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"Invalid {flag} {value}: use a number above 0, or omit the option.") from error
        return limits

    def _tasks(self) -> Mapping[str, Task]:
        return load_tasks(trec=None if self.trec is None else Path(self.trec), facts=self.facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskModels:
    """A function of a task's name that returns the task's root model and sub-model.

    Attributes:
        plan: the evaluation.
        tasks: its tasks by name.
        root, sub: clients; None where the scripted model plays.
    """

    plan: Plan
    tasks: Mapping[str, Task]
    root: OpenAIModel | None
    sub: OpenAIModel | None

    def __call__(self, task: str) -> tuple[Model, Model]:
        root, sub = self.root or _scripted_root(task), self.sub or self._oracle(task) or _scripted_root(task)
        assert root is not None
        assert sub is not None
        return root, sub

    def _oracle(self, task: str) -> Model | None:
        """The sub-model of a labelling task, which knows the labels of that task's questions."""
        match self.tasks[task]:
            case Oolong(questions=questions) | Pairs(questions=questions):
                return Oracle(questions=questions(), accuracy=self.plan.accuracy, seed=self.plan.seed).model()
        return None

    @property
    def clients(self) -> set[Model]:
        """The models that hold connections."""
        return {client for client in (self.root, self.sub) if client is not None}

    @property
    def base_url(self) -> str | None:
        """The server of the root model, or of both; None if neither is real."""
        client = self.root or (None if self.plan.sub_base_url else self.sub)
        return None if client is None else client.base_url


def environment_info() -> dict[str, str]:
    """The facts to cite with a score, beside the plan: versions, machine, date."""
    return {
        "rlm": version("rlm"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "started": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _return(instance: Instance) -> Instance:
    return instance


def _scripted_root(task: str) -> ScriptedModel | None:
    """The scripted root model of a task, which never sees an answer; None if the task has none."""
    match task.partition("/"):
        case ("seed_niah", _, "needle" | "facts" as kind):
            return scripted_model_for(kind)
        case ("oolong" | "oolong_pairs", _, _):
            return policies.oolong_root_model(task)
        case ("ruler", _, _):
            return policies.ruler_root_model()
    return None


def parse_lengths(texts: Sequence[str]) -> tuple[int, ...]:
    """Lengths such as `8k,32k` or `8192`, where k is 1,024 tokens and m 1,048,576.

    Raises:
        ConfigError: a text is not a length.
    """
    lengths = []
    for text in ",".join(texts).split(","):
        parsed = re.fullmatch(r"(\d+)([km]?)", text.strip().lower())
        if parsed is None or int(parsed[1]) == 0:
            raise ConfigError(f"Invalid length {text!r}: use token counts such as 8k,32k or 8192.")
        lengths.append(int(parsed[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[parsed[2]])
    return tuple(dict.fromkeys(lengths))


def format_length(length: int) -> str:
    """A length for people: 8192 becomes 8k."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if length >= size and length % size == 0:
            return f"{length // size}{unit}"
    return f"{length:,}"
