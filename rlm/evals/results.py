"""An evaluation on disk: its rows (`results.jsonl`) and its settings (`eval.json`). A report needs nothing else."""

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

ROWS_FILE: Final = "results.jsonl"
SETTINGS_FILE: Final = "eval.json"


@dataclass(frozen=True, slots=True)
class JobKey:
    """Identifies a job: an instance and the method that answers it."""

    task: str
    length: int
    seed: int
    index: int
    method: str

    @property
    def length_bucket(self) -> int:
        """The length that reports group by. Lengths of instances from files are rounded up to a power of two."""
        generated = not self.task.startswith(("user/", "longbench", "oolong_file/"))
        return self.length if generated else 1 << (self.length - 1).bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An instance for a method. `make` creates the instance when the job starts, because instances are large."""

    key: JobKey
    make: Callable[[], Instance]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One line of the results: the instance, the method's answer, its scores and its usage.

    Attributes:
        task, length, seed, index, method: see `JobKey`.
        digest: the instance's digest; its context is not stored.
        expected: the correct answers.
        answer: the method's output.
        read: the part of the output that the strict rule scored.
        strict, lax: scores from 0 to 1; None if the method failed.
        stop_reason, note, iterations, sub_calls, depth, sandboxes: see `MethodOutcome`.
        seconds: wall time of the method. If `resumed`, only the time of the last process.
        calls, input_tokens, output_tokens: usage; None if the method failed and keeps no record.
        failed_calls: number of sub-calls without a reply from their provider. The answer had to do without them.
        cost_usd: None if a price or the usage is unknown.
        by_node: (calls, input tokens, output tokens, dollars) of each node.
        run_dir: the run's directory, relative to the folder of the results; empty if the method keeps none.
        resumed: whether an earlier process started the run.
        error: why the method failed; empty if it did not.
        settings: settings of the evaluation, so that the rows suffice for a report.
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
    def key(self) -> JobKey:
        """The key of the row's job."""
        return JobKey(self.task, self.length, self.seed, self.index, self.method)

    @property
    def tokens(self) -> int | None:
        """Input and output tokens; None if unknown."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens

    def value(self, score: Literal["strict", "lax"]) -> float:
        """A score. Failures score 0."""
        value: float | None = getattr(self, score)
        return value or 0.0

    def is_final(self, *, redo_failed_calls: bool = False) -> bool:
        """Whether a resumed evaluation keeps this row instead of repeating its job."""
        return not self.error and not (redo_failed_calls and self.failed_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The folder of an evaluation, as loaded.

    Attributes:
        folder: where the files are.
        settings: the plan as JSON, with versions, machine and date.
        rows: the latest row of each job.
        superseded: earlier attempts that were paid for and later repeated.
    """

    folder: Path
    settings: Mapping[str, Any]
    rows: Mapping[JobKey, ResultRow]
    superseded: Sequence[ResultRow] = ()

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """Start an evaluation in a new or empty folder.

        Raises:
            ConfigError: the folder already contains results, or is not writable.
        """
        other = "choose another folder with --out (OUT=)"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / ROWS_FILE).exists():
                raise ConfigError(
                    f"{folder} already contains results. Continue with `rlm eval --resume {folder}`, or {other}."
                )
            _write_settings(folder, settings)
            (folder / ROWS_FILE).touch()
        except OSError as error:
            raise ConfigError(f"Cannot write results to {folder} ({error.strerror}): {other}.") from error
        return cls(folder=folder, settings=settings, rows={})

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Replace the settings, on disk too. Raises ConfigError while another process uses the folder."""
        with open_for_append(self.folder):
            try:
                _write_settings(self.folder, settings)
            except OSError as error:
                raise ConfigError(f"Cannot write results to {self.folder} ({error.strerror}).") from error
        return replace(self, settings=settings)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder. The last row of a job wins.

        Settings come from `eval.json`, or from the rows if it is missing. A larger n is in the file before it is in a row.

        Raises:
            ConfigError: the folder holds no readable evaluation.
        """
        try:
            attempts = list(_read(folder / ROWS_FILE))
            rows = {row.key: row for row in attempts}
            settings = next((row.settings for row in reversed(rows.values()) if row.settings), None)
            if settings is None or (folder / SETTINGS_FILE).exists():
                settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"No evaluation found in {folder}. Use the folder that --out named.") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"The evaluation in {folder} is damaged: {error}") from error
        # The last row of a resumed run includes its earlier cost. An attempt without a run pays each time.
        paid = {(row.key, row.run_dir or number): row for number, row in enumerate(attempts)}
        superseded = [row for row in paid.values() if row is not rows[row.key]]
        return cls(folder=folder, settings=settings, rows=rows, superseded=superseded)


def to_line(row: ResultRow) -> str:
    """A row as one line of the file."""
    return json.dumps(asdict(row)) + "\n"


@contextmanager
def open_for_append(folder: Path) -> Iterator[Callable[[str], None]]:
    """Lock the rows for this process and yield a function that appends durably. Drops a partial last line.

    Raises:
        ConfigError: another process holds the lock, or the file is not writable.
    """
    try:
        descriptor = os.open(folder / ROWS_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"Cannot write results to {folder} ({error.strerror}).") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another process is using the evaluation in {folder}. Wait for it or stop it.") from None
        truncate_partial_line(folder / ROWS_FILE)
        yield partial(append_durably, descriptor)
    finally:
        os.close(descriptor)


def append_durably(descriptor: int, text: str) -> None:
    """Append and fsync, so that a crash loses no paid answer."""
    pending = memoryview(text.encode("ascii"))
    while pending:
        pending = pending[os.write(descriptor, pending) :]
    os.fsync(descriptor)


def _write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    new = folder / f"{SETTINGS_FILE}.new"
    new.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / SETTINGS_FILE)


def _read(path: Path) -> Iterator[ResultRow]:
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.endswith(b"\n"):  # a crash may leave a partial last line
                try:
                    fields = json.loads(text.decode("ascii"))
                    fields["expected"] = tuple(fields["expected"])
                    fields["by_node"] = {node: tuple(usage) for node, usage in fields["by_node"].items()}
                    row = ResultRow(**fields)
                    hash(row.key)
                except (AttributeError, LookupError, TypeError, ValueError) as error:
                    raise ValueError(f"{path.name}, line {number} is not a result row; remove it.") from error
                yield row


def sort_rows(rows: Iterable[ResultRow], *, tasks: Iterable[str], methods: Iterable[str]) -> list[ResultRow]:
    """Rows in the order of the plan, whatever order they finished in."""
    task_rank = {name: rank for rank, name in enumerate(tasks)}
    method_rank = {name: rank for rank, name in enumerate(methods)}

    def rank(row: ResultRow) -> tuple[int, str, int, int, int, int]:
        last = len(task_rank)
        return (
            task_rank.get(row.task, last), row.task, row.length, row.seed, row.index, method_rank.get(row.method, 0)
        )  # fmt: skip

    return sorted(rows, key=rank)
