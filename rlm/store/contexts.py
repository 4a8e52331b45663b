"""The stored contexts of a run's questions."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from rlm.errors import ConfigError, JournalError
from rlm.sandbox.values import Value, encode_again, from_file

from .directory import private
from .record import ContextRecord, RunRecord


def store_context(
    directory: Path, value: Value, source: Path | None, stop: threading.Event, *, number: int = 0
) -> ContextRecord | None:
    """Store a context in pieces. For a `Path`, only its path and digest are recorded.

    Args:
        directory: the run directory.
        value: the context.
        source: the caller's path of the context, if it passed a `Path`.
        stop: when set, storing stops.
        number: number of the context's question, from 0.

    Returns:
        The record of the context; None if `stop` was set.

    Raises:
        JournalError: the disk is full or failed.
        ConfigError: the path is unreadable.
    """
    total = sha256()
    stored = directory / (f"context_{number}.{value.kind}" if number else f"context.{value.kind}")
    try:
        with open(os.devnull if source is not None else stored, "wb", opener=private) as file:
            for piece in value.pieces():
                if stop.is_set():
                    return None
                total.update(piece)
                file.write(piece)
            if source is None:
                os.fsync(file.fileno())
    except OSError as error:
        raise JournalError(
            f"Cannot store the run's context in {directory} ({error.strerror}): free some space."
        ) from error
    return ContextRecord(
        kind=value.kind,
        size=value.size,
        digest=total.hexdigest(),
        file=stored.name if source is None else None,
        path=None if source is None else str(source.absolute()),
        notes=value.notes,
    )


def is_context_file(name: str) -> bool:
    """Whether `store_context` makes files of this name."""
    return re.fullmatch(r"context(_[0-9]+)?\.(text|bytes|data)", name) is not None


def stored_contexts(directory: Path, record: RunRecord) -> list[Value | None]:
    """The contexts of a run's questions.

    Raises:
        ConfigError: a file or folder given as a `Path` has changed, or the run had made no call yet.
        JournalError: a stored context is damaged.
    """
    if record.context is None:
        raise ConfigError(f"Run {record.run_id} was interrupted before its first model call: start a new run.")
    contexts = [record.context, *(question.context for question in record.further)]
    return [None if context is None else _stored(directory, record, context) for context in contexts]


def _stored(directory: Path, record: RunRecord, context: ContextRecord) -> Value:
    if context.path is not None:
        try:
            value = replace(encode_again(Path(context.path), context.kind), notes=context.notes)
            same = value.kind == context.kind and value.size == context.size and _digest(value) == context.digest
        except ConfigError as error:
            raise ConfigError(f"The context of run {record.run_id} is missing: {error}") from error
        if not same:
            raise ConfigError(
                f"The context {context.path} has changed since run {record.run_id}: restore it, or start a new run."
            )
        return value
    value = replace(from_file(context.kind, directory / str(context.file), context.size), notes=context.notes)
    try:
        same = _digest(value) == context.digest
    except ConfigError as error:
        raise JournalError(f"The run in {directory} is damaged: {error}") from error
    if not same:
        raise JournalError(f"The run in {directory} is damaged: {context.file} has changed.")
    return value


def _digest(value: Value) -> str:
    total = sha256()
    for piece in value.pieces():
        total.update(piece)
    return total.hexdigest()
