"""The record of a run, `run.json`: everything that a resumed run needs beside its context and journal."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, Self

from rlm.config import Limits, SandboxConfig
from rlm.errors import ConfigError, JournalError
from rlm.models.prices import Price
from rlm.protocol.messages import Kind
from rlm.types import StopPoint, StopReason

from .directory import FILE_NAME, private

FORMAT_VERSION: Final = 1  # version of run.json

State = Literal["running", "finished", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The model of a level.

    Attributes:
        name: name of the model.
        server: its base URL; None if the caller passed an object rather than a name.
        context_window: window in tokens, if known. A replay shortens conversations and output for the same window.
        parameters: the parameters of its requests, if it was given by name. Recorded replies are valid for these only.
    """

    name: str
    server: str | None
    context_window: int | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRecord:
    """Where a context is stored: `file` in the run directory, or the caller's `path`.

    Attributes:
        kind: kind of its encoding (see `rlm.protocol.messages.Load`).
        size: size of its encoding, in bytes.
        digest: SHA-256 of its encoding, in hexadecimal.
        file: name of the file; None for a path.
        path: absolute path, if the caller passed a `Path`.
        notes: what was done to read it, in sentences.
    """

    kind: Kind
    size: int
    digest: str
    file: str | None = None
    path: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherQuestion:
    """A further question of a session. `context` is None if none came with it."""

    query: str
    context: ContextRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The content of `run.json`. Times are in seconds since the epoch.

    Attributes:
        run_id: name of the run directory.
        state: a `running` run whose lock is free (lock.py) was interrupted.
        query: the first question; None if the context contains it.
        depth: levels below the root that may be called.
        models: models by level.
        limits: limits at the start of the run.
        sandbox: policy of the containers.
        context: context of the first question; None until it is stored, which is before the first call.
        further: questions of a session after the first.
        answered: number of questions with an answer.
        stops: where the work on a question stopped, by the question's number from 0.
        raised: limits raised during the run, or when it was resumed.
        prices: prices that the caller set, by model name.
        digests: digests of the root's system prompt (`prompt`) and of the sandbox image's sources (`image`).
        versions: versions of rlm and Python.
        attempts: number of processes that have worked on the run.
        started: time of the start.
        ended: time of the end; None before that.
        stop_reason: why the work on the last answer ended.
    """

    run_id: str
    state: State
    query: str | None
    depth: int
    models: Mapping[int, ModelRecord]
    limits: Limits
    sandbox: SandboxConfig
    context: ContextRecord | None = None
    further: tuple[FurtherQuestion, ...] = ()
    answered: int = 0
    stops: Mapping[int, StopPoint] = field(default_factory=dict)
    raised: Mapping[str, float | None] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: {"rlm": version("rlm"), "python": _python()})
    attempts: int = 1
    started: float = field(default_factory=time.time)
    ended: float | None = None
    stop_reason: StopReason | None = None

    @property
    def limits_now(self) -> Limits:
        """The limits, including raised ones."""
        return replace(self.limits, **self.raised)  # type: ignore[arg-type]

    def save(self, directory: Path) -> None:
        """Replace the file atomically: readers see the old or the new one.

        Raises:
            JournalError: the disk is full or failed.
        """
        new = directory / f"{FILE_NAME}.new"
        try:
            with open(new, "w", encoding="ascii", opener=private) as file:
                json.dump({"v": FORMAT_VERSION} | asdict(self), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(directory / FILE_NAME)
        except OSError as error:
            raise JournalError(
                f"Cannot write {FILE_NAME} in {directory} ({error.strerror}): free some space, then resume the run."
            ) from error

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the file.

        Raises:
            ConfigError: the directory contains no run.
            JournalError: the file is damaged, or another version wrote it.
        """
        try:
            found: dict[str, Any] = json.loads((directory / FILE_NAME).read_bytes())
            format_version = found.pop("v")
        except FileNotFoundError:
            raise ConfigError(f"No run in {directory}. Use `rlm runs` to list all runs.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise JournalError(f"The run in {directory} is damaged: {FILE_NAME} is unreadable.") from error
        if format_version != FORMAT_VERSION:
            raise JournalError(f"The run in {directory} was written by another version of rlm: use that version.")
        try:
            context, further = found.pop("context"), found.pop("further", ())
            stops = {int(number): StopPoint(**stop) for number, stop in found.pop("stops", {}).items()}
            models = {int(level): ModelRecord(**model) for level, model in found.pop("models").items()}
            limits, sandbox = Limits(**found.pop("limits")), SandboxConfig(**found.pop("sandbox"))
            prices = {name: Price(**price) for name, price in found.pop("prices", {}).items()}
            return cls(
                models=models,
                limits=limits,
                sandbox=sandbox,
                prices=prices,
                context=_context(context),
                further=tuple(
                    FurtherQuestion(query=question["query"], context=_context(question["context"]))
                    for question in further
                ),
                stops=stops,
                **found,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise JournalError(
                f"The run in {directory} is damaged: {FILE_NAME} lacks a field, or has a wrong one."
            ) from error

    def ensure_unchanged(self, directory: Path) -> None:
        """Check the file, once this process holds the lock.

        Raises:
            ConfigError: another process has worked on the run since the file was read.
        """
        if RunRecord.load(directory) != self:
            raise ConfigError(f"Run {self.run_id} was modified by another process: re-check with `rlm runs`.")

    def take_over(self, directory: Path, **changes: Any) -> Self:
        """Save and return the record of a run that this process resumes. The caller holds the lock."""
        versions = {"rlm": version("rlm"), "python": _python()}
        taken = replace(
            self,
            state="running",
            versions=versions,
            attempts=self.attempts + 1,
            ended=None,
            stop_reason=None,
            **changes,
        )
        taken.save(directory)
        return taken


def _context(found: dict[str, Any] | None) -> ContextRecord | None:
    return None if found is None else ContextRecord(**{**found, "notes": tuple(found.get("notes", ()))})


def _python() -> str:
    return platform.python_version()
