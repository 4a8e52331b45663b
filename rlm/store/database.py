"""A SQLite file with one thread that runs all statements in order, so the event loop never waits for the disk.

Writes that are pending at the same time share a transaction, so many concurrent calls cost few commits.
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

BUSY_SECONDS: Final = 30.0  # how long to wait for another process that writes to the same file
BUSY_RETRY_SECONDS: Final = 0.01  # pause between attempts when SQLite itself does not wait

Mode = Literal["create", "open", "read"]
Statement = tuple[str, Sequence[object]]
T = TypeVar("T")


class Database:
    """An open database, for one event loop.

    Args:
        path: the file; None keeps the database in memory.
        schema: SQL statements that create the tables.
        version: version of the schema.
        oldest: oldest schema version that this code can use.
        mode: `create` creates a missing file. `open` and `read` require the file; `read` changes nothing.

    Raises:
        JournalError: the file is damaged, or a newer or a too old version wrote it.
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
                raise JournalError(f"Cannot use {self._name} ({error}): it is damaged, or its disk is full.") from error
            opening.pop_all()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rlm-database")

    def close(self) -> None:
        """Finish pending writes, which takes milliseconds, and close the file."""
        self._thread.shutdown()
        self._connection.close()

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Query in the calling thread. Call it inside `run`, or while no write is pending.

        Raises:
            JournalError: the file is damaged.
        """
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"Cannot read {self._name} ({error}): it is damaged.") from error

    def add(self, *statements: Statement) -> None:
        """Queue statements for the next transaction, before the statements of later writes. Does not wait."""
        with self._lock:
            self._waiting += statements

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function in the database's thread, in order with writes."""
        return await asyncio.shield(asyncio.wrap_future(self._thread.submit(work)))

    async def write(self, *statements: Statement, durable: bool) -> None:
        """Write statements in one transaction, with all other pending ones. Cancelling the caller does not undo it.

        Args:
            statements: pairs of SQL and values.
            durable: wait until they are on disk (fsync). Otherwise, a power cut can lose them, but not a crash.

        Raises:
            JournalError: this write or an earlier one failed.
        """
        with self._lock:
            self._waiting += statements
            self._durable |= durable
            if self._commit is None:
                self._commit = asyncio.wrap_future(self._thread.submit(self._write_waiting))
                self._commit.add_done_callback(_retrieve)
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
            self._broken = JournalError(f"Cannot write {self._name} ({error}): free some space on its disk.")
            raise self._broken from error

    def _prepare(self, schema: str, version: int, oldest: int, mode: Mode) -> None:
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found > version:
            raise JournalError(f"{self._name} was written by a newer version of rlm: use that version.")
        if 0 < found < oldest:
            raise JournalError(f"{self._name} was written by an older version of rlm: use that version.")
        if found == 0 and mode != "create":
            raise JournalError(f"{self._name} is damaged: it is empty.")
        if found == 0:
            self._use_wal()
            self._connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {version}; COMMIT;")

    def _use_wal(self) -> None:
        """Switch to WAL. SQLite does not wait for the required lock, and another process may be creating the same file."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(BUSY_RETRY_SECONDS)


def _connect(path: Path | None, mode: Mode) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions begin explicitly."""
    name = ":memory:"
    if path is not None:
        if mode == "create":
            path.touch(mode=0o600)
        name = f"{path.absolute().as_uri()}?mode={'ro' if mode == 'read' else 'rw'}"
    options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "timeout": BUSY_SECONDS}
    connection: sqlite3.Connection = sqlite3.connect(name, uri=True, **options)
    return connection


def _retrieve(done: asyncio.Future[None]) -> None:
    """Retrieve the exception, as all waiters may be cancelled. The next write raises it again."""
    if not done.cancelled():
        done.exception()


def _bindable(value: object) -> object:
    """The value, with texts that contain lone surrogates as bytes: SQLite rejects them."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    return value


def text_of(value: str | bytes) -> str:
    """The text of a stored value."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogatepass")
