"""An evaluation on the disk: its rows (`results.jsonl`) and what it was made with (`eval.json`). A report needs no more."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self

from rlm.errors import ConfigError
from rlm.store.event_log import truncate_partial_line

from .task import Instance

ROWS: Final = "results.jsonl"
SETTINGS: Final = "eval.json"


@dataclass(frozen=True, slots=True)
class Key:
    """Which instance was given to which method."""

    task: str
    length: int
    seed: int
    index: int
    method: str

    @property
    def bucket(self) -> int:
        """The length under which it is reported: that of a file's instance is rounded up to a power of two."""
        made = not self.task.startswith(("user/", "longbench", "oolong_file/"))
        return self.length if made else 1 << (self.length - 1).bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An instance for a method. It is made when its turn comes, as it may be large."""

    key: Key
    make: Callable[[], Instance]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: what an instance asked, what a method gave, and what that used.

    `digest` is that of the instance, whose context is not kept. `strict` and `lax` are None where the system failed, with
    the reason in `error`. `cost_usd` is None where a price is unknown; where a method failed that leaves no record, calls
    and tokens are None too. `failed_calls`: so many calls below the root got no reply from their provider, and the answer
    was made without. `by_node` has calls, input and output tokens, and dollars. `run_dir` is relative to the file's folder.
    `resumed`: the run was cut off and went on later, so `seconds` are those of its last part. `settings` are the
    evaluation's, so that the rows alone make a report.
    """

    task: str
    length: int
    seed: int
    index: int
    method: str
    digest: str = ""
    expected: tuple[str, ...] = ()
    answer: str = ""
    read: str = ""
    strict: float | None = None
    lax: float | None = None
    stop_reason: str = ""
    note: str = ""
    iterations: int = 0
    sub_calls: int = 0
    depth: int = 0
    sandboxes: int = 0
    seconds: float = 0.0
    calls: int | None = 0
    failed_calls: int = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cost_usd: float | None = 0.0
    by_node: Mapping[str, tuple[int, int, int, float | None]] = field(default_factory=dict)
    run_dir: str = ""
    resumed: bool = False
    error: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return Key(self.task, self.length, self.seed, self.index, self.method)

    @property
    def tokens(self) -> int | None:
        return (
            None if self.input_tokens is None or self.output_tokens is None else self.input_tokens + self.output_tokens
        )

    def value(self, score: Literal["strict", "lax"]) -> float:
        """A score; that of a failure is 0."""
        found: float | None = getattr(self, score)
        return found or 0.0

    def stands(self, *, redo_failed_calls: bool = False) -> bool:
        """Whether an evaluation that goes on keeps it, and does not do its instance again."""
        return not self.error and not (redo_failed_calls and self.failed_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The folder of an evaluation, opened to go on or to be read.

    `replaced` are attempts that were done again: paid for, beside those of `rows`.
    """

    folder: Path
    settings: Mapping[str, Any]
    rows: Mapping[Key, Row]
    replaced: Sequence[Row] = ()

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, Any], *, goes_on: bool = True) -> Self:
        """A new one. Raises ConfigError where there is one already, or the folder cannot be written.

        `goes_on`: it is of a kind that `rlm eval --resume` goes on with, which the error then says.
        """
        other = "give another folder with --out (OUT=)"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / ROWS).exists():
                way = f"go on with --resume {folder}, or {other}" if goes_on else other
                raise ConfigError(f"There are results in {folder} already: {way}.")
            _write_settings(folder, settings)
            (folder / ROWS).touch()
        except OSError as error:
            raise ConfigError(f"No results can be written to {folder} ({error.strerror}): {other}.") from error
        return cls(folder=folder, settings=settings, rows={})

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """The same with other settings, on the disk too. Raises ConfigError where another process is at it."""
        with open_for_append(self.folder):
            try:
                _write_settings(self.folder, settings)
            except OSError as error:
                raise ConfigError(f"No results can be written to {self.folder} ({error.strerror}).") from error
        return replace(self, settings=settings)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What is there; of several rows of one key the last counts. Raises ConfigError where it cannot be read.

        The rows' settings count where the file of them is missing: a greater n is in that file before it is in a row.
        """
        try:
            found = list(_read(folder / ROWS))
            rows = {row.key: row for row in found}
            settings = next((row.settings for row in reversed(rows.values()) if row.settings), None)
            if settings is None or (folder / SETTINGS).exists():
                settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"There is no evaluation in {folder}: give the folder that --out named.") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"The evaluation in {folder} is damaged: {error}") from error
        # a run that went on has in its last row what it paid before; what leaves no run pays each time
        attempts = {(row.key, row.run_dir or number): row for number, row in enumerate(found)}
        replaced = [row for row in attempts.values() if row is not rows[row.key]]
        return cls(folder=folder, settings=settings, rows=rows, replaced=replaced)


def line(row: Row) -> str:
    """One line of the file."""
    return json.dumps(asdict(row)) + "\n"


@contextmanager
def open_for_append(folder: Path) -> Iterator[Callable[[str], None]]:
    """For one process at a time; a last line that a crash cut off is taken away.

    Raises:
        ConfigError: another process is at it, or the file cannot be written.
    """
    try:
        descriptor = os.open(folder / ROWS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"No results can be written to {folder} ({error.strerror}).") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another process works on the evaluation in {folder}: wait, or stop it.") from None
        truncate_partial_line(folder / ROWS)
        yield partial(write_through, descriptor)
    finally:
        os.close(descriptor)


def write_through(descriptor: int, text: str) -> None:
    """Append, and have it on the disk: what was paid for is not lost."""
    left = memoryview(text.encode("ascii"))
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def _write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    new = folder / f"{SETTINGS}.new"
    new.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / SETTINGS)


def _read(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.endswith(b"\n"):  # else a crash cut it off
                try:
                    found = json.loads(text.decode("ascii"))
                    found["expected"] = tuple(found["expected"])
                    found["by_node"] = {node: tuple(used) for node, used in found["by_node"].items()}
                    row = Row(**found)
                    hash(row.key)
                except (AttributeError, LookupError, TypeError, ValueError) as error:
                    raise ValueError(f"line {number} of {path.name} is no row; take it away.") from error
                yield row


def in_order(rows: Iterable[Row], *, tasks: Iterable[str], methods: Iterable[str]) -> list[Row]:
    """Rows in the order of the plan, whatever the order in which they were done."""
    task_at = {name: place for place, name in enumerate(tasks)}
    method_at = {name: place for place, name in enumerate(methods)}

    def place(row: Row) -> tuple[int, str, int, int, int, int]:
        last = len(task_at)
        return (
            task_at.get(row.task, last), row.task, row.length, row.seed, row.index, method_at.get(row.method, 0)
        )  # fmt: skip

    return sorted(rows, key=place)
