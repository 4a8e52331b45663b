"""What a run directory says of its run: `run.json`, and the context, so that the run can be resumed from there alone."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from glob import escape
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, Self

from rlm.config import Limits, SandboxConfig
from rlm.errors import ConfigError, JournalError
from rlm.models.prices import Price
from rlm.protocol.messages import Kind
from rlm.sandbox.values import Value, encode, from_file
from rlm.types import StopPoint, StopReason

FILE_NAME: Final = "run.json"
FORMAT: Final = 1  # of run.json
CANDIDATES: Final = 5  # runs that are named where an id could be of several

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

    def refuse_if_changed(self, directory: Path) -> None:
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


def find(run: str | Path, root: Path) -> Path:
    """The directory of a run, by its path, its id, or as much of its id as no other run's begins with.

    Raises:
        ConfigError: several begin so.
    """
    path = Path(run)
    if path.is_absolute() or len(path.parts) > 1 or path.is_dir():
        return path
    if (root / path).is_dir():
        return root / path
    found = sorted(each.parent for each in root.glob(f"**/{escape(str(run))}*/{FILE_NAME}"))
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:CANDIDATES]) + ", ..." * (len(found) > CANDIDATES)
        raise ConfigError(f"The id of {len(found):,} runs begins with {run}: give more of it, as in {names}.")
    return found[0] if found else root / path


def default_root() -> Path:
    """Where runs are, unless said otherwise."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "rlm" / "runs"


def new_directory(root: Path | None) -> tuple[str, Path]:
    """A new directory that only this user can read: it will hold the data and the answers."""
    root = default_root() if root is None else root
    run_id = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(4)
    directory = root / run_id
    try:
        root.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"No run directory can be made in {root} ({error.strerror}): choose another with run_root."
        ) from error
    return run_id, directory


# The context


def store_context(
    directory: Path, value: Value, source: Path | None, stop: threading.Event, *, number: int = 0
) -> ContextRecord | None:
    """Keep a context, piece by piece; of a `Path` only where it is and what it holds. None where it was stopped.

    `number` is that of the question it comes with.

    Raises:
        JournalError: the disk does not take it.
        ConfigError: the path cannot be read.
    """
    total = sha256()
    kept = directory / (f"context_{number}.{value.kind}" if number else f"context.{value.kind}")
    try:
        with open(os.devnull if source is not None else kept, "wb", opener=private) as file:
            for piece in value.pieces():
                if stop.is_set():
                    return None
                total.update(piece)
                file.write(piece)
            if source is None:
                os.fsync(file.fileno())
    except OSError as error:
        raise JournalError(
            f"The run's context cannot be stored in {directory} ({error.strerror}): make room."
        ) from error
    return ContextRecord(
        kind=value.kind,
        size=value.size,
        digest=total.hexdigest(),
        file=kept.name if source is None else None,
        path=None if source is None else str(source.absolute()),
        mtime_ns=None if source is None else source.stat().st_mtime_ns,
    )


def is_context_file(name: str) -> bool:
    """Whether `store_context` gives a file such a name."""
    return re.fullmatch(r"context(_[0-9]+)?\.(text|bytes|data)", name) is not None


def stored_contexts(directory: Path, record: RunRecord) -> list[Value | None]:
    """The contexts of a run's questions, as they were.

    Raises:
        ConfigError: the file or folder that one was given as has changed, or the run had not begun.
        JournalError: what was stored is damaged.
    """
    if record.context is None:
        raise ConfigError(f"The run {record.run_id} was interrupted before its first model call: start it again.")
    contexts = [record.context, *(question.context for question in record.further)]
    return [None if context is None else _stored(directory, record, context) for context in contexts]


def _stored(directory: Path, record: RunRecord, context: ContextRecord) -> Value:
    if context.path is not None:
        try:
            value = encode(Path(context.path))
            same = value.kind == context.kind and value.size == context.size and _digest(value) == context.digest
        except ConfigError as error:
            raise ConfigError(f"The context of the run {record.run_id} is gone: {error}") from error
        if not same:
            raise ConfigError(
                f"The context {context.path} has changed since the run {record.run_id}: put it back as it was, or start "
                "a new run."
            )
        return value
    value = from_file(context.kind, directory / str(context.file), context.size)
    try:
        same = _digest(value) == context.digest
    except ConfigError as error:
        raise JournalError(f"The run in {directory} is damaged: {error}") from error
    if not same:
        raise JournalError(f"The run in {directory} is damaged: {context.file} is not what was stored.")
    return value


def _context(found: dict[str, Any] | None) -> ContextRecord | None:
    return None if found is None else ContextRecord(**found)


def _digest(value: Value) -> str:
    total = sha256()
    for piece in value.pieces():
        total.update(piece)
    return total.hexdigest()


def private(path: str, flags: int) -> int:
    """As `opener` of `open`: a file that only this user can read."""
    return os.open(path, flags, 0o600)


def _python() -> str:
    return platform.python_version()
