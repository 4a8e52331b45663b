"""The details of a run that its events lack: limits, prompts as sent, the context. All optional."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgpack

from rlm.errors import ConfigError
from rlm.sandbox.values import Value, encode_again, from_file
from rlm.store.contexts import is_context_file
from rlm.types import Message

from .context_search import SearchableContext
from .flatten import flatten

MAX_CONTEXT_BYTES: Final = 128 * 1024**2  # browsers slow down on larger pages


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetails:
    """The details of a run that its events lack.

    Attributes:
        context: The context as text, or None if it is missing, changed or too large.
        limits: Limits of the run by name.
        sent: For each node, the text of every reply with the messages that it answers.
        version: Version of rlm that made the run.
        notes: What is missing and why, one sentence each.
    """

    context: SearchableContext | None = None
    limits: Mapping[str, object] = field(default_factory=dict)
    sent: Mapping[str, Sequence[tuple[str, Sequence[Message]]]] = field(default_factory=dict)
    version: str = "unknown"
    notes: Sequence[str] = ()

    def sent_for(self, node: str, reply: str) -> Sequence[Message]:
        """The messages that a reply of a node answers, or none if unknown."""
        return next((messages for text, messages in self.sent.get(node, ()) if text == reply), ())

    def first_sent(self, node: str) -> Sequence[Message]:
        """The messages that opened a node's conversation, or none if unknown."""
        return next((messages for _, messages in self.sent.get(node, ())), ())


def read_details(directory: Path, context_file: Path | None = None, *, with_context: bool = True) -> RunDetails:
    """Read the details of a run. An unreadable part becomes a note, so that the rest stays usable.

    Args:
        directory: The run's directory.
        context_file: File or folder that was the run's context; None to look in the directory.
        with_context: Whether to read the context.

    Raises:
        ConfigError: `context_file` is unreadable, or is not the run's context.
    """
    notes: list[str] = []
    record = _run_record(directory, notes)
    limits, versions = record.get("limits"), record.get("versions")
    return RunDetails(
        context=_context(directory, record.get("context"), context_file, notes) if with_context else None,
        limits=limits if isinstance(limits, dict) else {},
        sent=_sent_messages(directory, notes),
        version=str(versions.get("rlm")) if isinstance(versions, dict) else "unknown",
        notes=tuple(notes),
    )


def _run_record(directory: Path, notes: list[str]) -> dict[str, Any]:
    """The content of `run.json`, unvalidated, so that a foreign or damaged file still shows its readable parts."""
    try:
        record = json.loads((directory / "run.json").read_bytes())
        return record if isinstance(record, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"Cannot read run.json: {error}")
        return {}


def _context(directory: Path, entry: object, named: Path | None, notes: list[str]) -> SearchableContext | None:
    """The context as text, from the named file or folder, or else from the run directory.

    Its digest must match the one in `run.json`. So a foreign run directory cannot put a file of this machine on the
    page without knowing its digest.
    """
    entry = entry if isinstance(entry, dict) else {}
    try:
        kind = str(entry.get("kind"))
        value = encode_again(named, kind) if named is not None else _stored_context(directory, entry)
        if value is None:
            return None
        if value.size > MAX_CONTEXT_BYTES:
            notes.append(f"The context is not shown: it is larger than {MAX_CONTEXT_BYTES // 1024**2} MiB.")
            return None
        content = b"".join(value.pieces())
        if (named is None or "digest" in entry) and sha256(content).hexdigest() != entry.get("digest"):
            if named is not None:
                raise ConfigError(f"{named} is not the run's context, or has changed since: omit --context.")
            notes.append(
                f"The context is not shown: {entry.get('path') or entry.get('file')} has changed since the run."
            )
            return None
        if value.kind in ("data", "folder"):
            plain = msgpack.unpackb(content, strict_map_key=False, unicode_errors="surrogatepass")
            return SearchableContext(flatten(plain))
        return SearchableContext(content.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        notes.append("The context is not shown: it is not text.")
    except (ConfigError, OSError, ValueError, msgpack.UnpackException) as error:
        if named is not None:
            raise
        notes.append(f"The context is not shown: {error}")
    return None


def _stored_context(directory: Path, entry: Mapping[str, object]) -> Value | None:
    match entry:
        case {"kind": ("text" | "bytes" | "data") as kind, "file": str(name), "size": int(size)}:
            if not is_context_file(name):
                raise ConfigError(f"run.json names {name}, which is not a context file.")
            return from_file(kind, directory / name, size)
        case {"path": str(path)}:
            return encode_again(Path(path), str(entry.get("kind")))
    return None


def _sent_messages(directory: Path, notes: list[str]) -> Mapping[str, Sequence[tuple[str, Sequence[Message]]]]:
    """The conversations in the journal by node, each in order."""
    path = directory / "journal.sqlite"
    sent: dict[str, list[tuple[str, Sequence[Message]]]] = {}
    if not path.exists():
        return sent
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            stored = {
                bytes(digest).hex(): Message(role=role, content=_decoded(content))
                for digest, role, content in database.execute("SELECT digest, role, content FROM messages")
            }
            rows = database.execute(
                "SELECT node, messages, text FROM calls WHERE text NOT NULL ORDER BY node, ordinal, id"
            )
            for node, digests, text in rows:
                messages = [stored[digest] for digest in json.loads(digests)]
                sent.setdefault(str(node), []).append((_decoded(text), messages))
    except (sqlite3.Error, ValueError, KeyError) as error:
        notes.append(f"Prompts as sent are not shown: cannot read journal.sqlite ({error}).")
    return sent


def _decoded(stored: object) -> str:
    """A text of the journal, which stores texts with lone surrogates as bytes."""
    return stored.decode("utf-8", "surrogatepass") if isinstance(stored, bytes) else str(stored)
