"""What a run directory says of its run: `run.json`, and the context, so that the run can be resumed from there alone."""

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

FORMAT: Final = 1  # of run.json

State = Literal["running", "finished", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The model of a level. `server` is its base URL; None where the model was an object of the caller's, not a name. A
    replay shortens conversations and output for the same `context_window`; older versions did not write it.
    """

    name: str
    server: str | None
    context_window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRecord:
    """Where the context is: `file` in the run directory, or what was given as a `Path`. `digest` is of its bytes."""

    kind: Kind
    size: int
    digest: str
    file: str | None = None
    path: str | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherQuestion:
    """A question of a session after its first; `context` is None where none came with it."""

    query: str
    context: ContextRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """`run.json`. Times are seconds since the epoch. A run that is `running` but held by nobody (hold.py) was interrupted.

    `context` is None until it has been stored, which is before the first call. `further`: the questions of a session after
    the first; `answered`: so many of all. `stops`: where the work on a question was ended, by its number from 0. `raised`:
    limits that were raised while the run was under way, or when it was resumed. `prices`: those that the caller gave.
    `digests`: of the root's system prompt, and of the sources of the sandbox image.
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
        """With those that were raised."""
        return replace(self.limits, **self.raised)  # type: ignore[arg-type]

    def save(self, directory: Path) -> None:
        """Write it in one step: a reader sees the old one or the new one.

        Raises:
            JournalError: the disk does not take it.
        """
        new = directory / f"{FILE_NAME}.new"
        try:
            with open(new, "w", encoding="ascii", opener=private) as file:
                json.dump({"v": FORMAT} | asdict(self), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(directory / FILE_NAME)
        except OSError as error:
            raise JournalError(
                f"The run's record cannot be written in {directory} ({error.strerror}): make room, then resume the run."
            ) from error

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read it.

        Raises:
            ConfigError: there is no run.
            JournalError: it is damaged, or was written by a newer version.
        """
        try:
            found: dict[str, Any] = json.loads((directory / FILE_NAME).read_bytes())
            written = found.pop("v")
            found.pop("owner", None)  # which versions before the lock wrote
        except FileNotFoundError:
            raise ConfigError(f"There is no run in {directory}: `rlm runs` lists those there are.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise JournalError(f"The run in {directory} is damaged: {FILE_NAME} cannot be read.") from error
        if written != FORMAT:
            raise JournalError(f"The run in {directory} was written by another version of rlm: use that one.")
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
            raise JournalError(f"The run in {directory} is damaged: {FILE_NAME} lacks what it should hold.") from error

    def ensure_unchanged(self, directory: Path) -> None:
        """Before this process, which holds the run, does anything to it.

        Raises:
            ConfigError: another has worked on it since this was read.
        """
        if RunRecord.load(directory) != self:
            raise ConfigError(f"The run {self.run_id} has gone on meanwhile: look at it again with `rlm runs`.")

    def take_over(self, directory: Path, **changes: Any) -> Self:
        """Make this process, which holds the run, the one that works on it, and change the record so."""
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


# The context


def _context(found: dict[str, Any] | None) -> ContextRecord | None:
    return None if found is None else ContextRecord(**found)


def _python() -> str:
    return platform.python_version()
