"""A SQLite file with one thread that does all its work, in order. The event loop never waits for the disk.

What is written at about the same time shares a transaction, so that many calls at once cost few commits.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from rlm.errors import JournalError

BUSY_SECONDS: Final = 30.0  # for another process that writes to the same file
BUSY_PAUSE: Final = 0.01  # seconds, before that is tried again for which SQLite does not wait

Mode = Literal["create", "open", "read"]
Statement = tuple[str, Sequence[object]]
T = TypeVar("T")


class Database:
    """One open file, for one event loop.

    Args:
        path: None keeps it in memory.
        schema: the statements that make its tables.
        version: of the schema.
        oldest: version that can still be used.
        mode: `create` makes the file if there is none; for `open` and `read` it has to be there, and `read` changes nothing.

    Raises:
        JournalError: it is damaged, or was written by a newer version, or one that is too old.
    """

    def __init__(self, path: Path | None, *, schema: str, version: int, oldest: int = 1, mode: Mode = "create") -> None:
        self._name = "the database" if path is None else str(path)
        self._lock = threading.Lock()
        self._waiting: list[Statement] = []
        self._durable = False
        self._commit: asyncio.Future[None] | None = None
        self._broken: JournalError | None = None
        with ExitStack() as opening:
            try:
                self._connection = opening.enter_context(closing(_connect(path, mode)))
                self._prepare(schema, version, oldest, mode)
            except (sqlite3.Error, OSError) as error:
                raise JournalError(
                    f"{self._name} cannot be used ({error}): it is damaged, or its disk is full."
                ) from error
            opening.pop_all()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rlm-database")

    def close(self) -> None:
        """Waits for what is being written: milliseconds."""
        self._thread.shutdown()
        self._connection.close()

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Read at once, where nothing else is under way: before the first write, or in `read`.

        Raises:
            JournalError: the file is damaged.
        """
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{self._name} cannot be read ({error}): it is damaged.") from error

    def add(self, *statements: Statement) -> None:
        """Have something written with what is written next, and before it."""
        with self._lock:
            self._waiting += statements

    async def run(self, work: Callable[[], T]) -> T:
        """Do something in the database's thread: all that is asked for later comes after it."""
        return await asyncio.shield(asyncio.wrap_future(self._thread.submit(work)))

    async def write(self, *statements: Statement, durable: bool) -> None:
        """Write in one transaction with whatever else waits. Cancelling the caller does not undo it.

        Args:
            statements: with their values.
            durable: have it on the disk (fsync), not only out of this process.

        Raises:
            JournalError: it could not be written; from then on nothing is.
        """
        with self._lock:
            self._waiting += statements
            self._durable |= durable
            if self._commit is None:
                self._commit = asyncio.wrap_future(self._thread.submit(self._write_waiting))
                self._commit.add_done_callback(_look_at)
            commit = self._commit
        await asyncio.shield(commit)

    def _write_waiting(self) -> None:
        with self._lock:
            statements, self._waiting = self._waiting, []
            durable, self._durable = self._durable, False
            self._commit = None
        if self._broken is not None:
            raise self._broken
        try:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, values in statements:
                self._connection.execute(statement, [_bindable(value) for value in values])
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._broken = JournalError(f"{self._name} cannot be written ({error}): make room on its disk.")
            raise self._broken from error

    def _prepare(self, schema: str, version: int, oldest: int, mode: Mode) -> None:
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found > version:
            raise JournalError(f"{self._name} was written by a newer version of rlm: use that one.")
        if 0 < found < oldest:
            raise JournalError(f"{self._name} was written by an older version of rlm: use that one.")
        if found == 0 and mode != "create":
            raise JournalError(f"{self._name} is damaged: it is empty.")
        if found == 0:
            self._use_wal()
            self._connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {version}; COMMIT;")

    def _use_wal(self) -> None:
        """SQLite does not wait for the lock that this takes, and another process may be making the same file."""
        patience = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                    raise
            time.sleep(BUSY_PAUSE)


def _connect(path: Path | None, mode: Mode) -> sqlite3.Connection:
    """In autocommit: transactions are begun where they are wanted."""
    name = ":memory:"
    if path is not None:
        if mode == "create":
            path.touch(mode=0o600)
        name = f"{path.absolute().as_uri()}?mode={'ro' if mode == 'read' else 'rw'}"
    options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "timeout": BUSY_SECONDS}
    connection: sqlite3.Connection = sqlite3.connect(name, uri=True, **options)
    return connection


def _look_at(done: asyncio.Future[None]) -> None:
    """All who waited may have been cancelled; the next write says the same again."""
    if not done.cancelled():
        done.exception()


def _bindable(value: object) -> object:
    """SQLite's text has no lone surrogates: such a text is kept as bytes."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    return value


def text_of(value: str | bytes) -> str:
    """A text as it was before it was written."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogatepass")
