"""What a run directory may hold beside the events, each shown if it is there: limits, prompts as sent, the context."""

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
from rlm.sandbox.values import Value, encode, from_file
from rlm.store.contexts import is_context_file
from rlm.types import Message

from .context import Context
from .flat import flat

MAX_CONTEXT_BYTES: Final = 128 * 1024**2  # that a page carries; of a longer one, the page says what it was


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """`sent` has, by node, the text of each reply with the messages sent for it. `version` is of the rlm that made the run.
    `notes`: what is not shown, and why.
    """

    context: Context | None = None
    limits: Mapping[str, object] = field(default_factory=dict)
    sent: Mapping[str, Sequence[tuple[str, Sequence[Message]]]] = field(default_factory=dict)
    version: str = "unknown"
    notes: Sequence[str] = ()

    def sent_for(self, node: str, reply: str) -> Sequence[Message]:
        """The messages that a reply of a node answered; none where they are not known."""
        return next((messages for text, messages in self.sent.get(node, ()) if text == reply), ())

    def sent_first(self, node: str) -> Sequence[Message]:
        """The messages with which a node's conversation began; none where they are not known."""
        return next((messages for _, messages in self.sent.get(node, ())), ())


def read_extras(directory: Path, context_file: Path | None = None, *, with_context: bool = True) -> Extras:
    """What is there. A part that cannot be read becomes a note: the rest of the run is shown.

    Raises:
        ConfigError: `context_file`, the file or folder that the caller named, cannot be read, or is not the run's context.
    """
    notes: list[str] = []
    about = _about(directory, notes)
    limits, versions = about.get("limits"), about.get("versions")
    return Extras(
        context=_context(directory, about.get("context"), context_file, notes) if with_context else None,
        limits=limits if isinstance(limits, dict) else {},
        sent=_sent(directory, notes),
        version=str(versions.get("rlm")) if isinstance(versions, dict) else "unknown",
        notes=tuple(notes),
    )


def _about(directory: Path, notes: list[str]) -> dict[str, Any]:
    try:
        found = json.loads((directory / "run.json").read_bytes())
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"run.json cannot be read: {error}")
        return {}


def _context(directory: Path, about: object, named: Path | None, notes: list[str]) -> Context | None:
    """The context as text: the file or folder that the caller names, else what the run directory has of it.

    It has to be what the run was given, where the run tells. So a run directory of somebody else's puts no file on the page
    but one that they had.
    """
    known = about if isinstance(about, dict) else {}
    try:
        value = encode(named) if named is not None else _stored(directory, known)
        if value is None:
            return None
        if value.size > MAX_CONTEXT_BYTES:
            notes.append(f"The context is larger than {MAX_CONTEXT_BYTES // 1024**2} MiB and not part of this page.")
            return None
        content = b"".join(value.pieces())
        if (named is None or "digest" in known) and sha256(content).hexdigest() != known.get("digest"):
            if named is not None:
                raise ConfigError(
                    f"{named} is not what the run had as its context, or has changed since: leave it out."
                )
            notes.append(
                f"The context is not shown: {known.get('path') or known.get('file')} has changed since the run."
            )
            return None
        if value.kind in ("data", "folder"):
            return Context(flat(msgpack.unpackb(content, strict_map_key=False, unicode_errors="surrogatepass")))
        return Context(content.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        notes.append("The context is not text and not part of this page.")
    except (ConfigError, OSError, ValueError, msgpack.UnpackException) as error:
        if named is not None:
            raise
        notes.append(f"The context is not shown: {error}")
    return None


def _stored(directory: Path, about: Mapping[str, object]) -> Value | None:
    match about:
        case {"kind": ("text" | "bytes" | "data") as kind, "file": str(name), "size": int(size)}:
            if not is_context_file(name):
                raise ConfigError(f"run.json names {name}, which is no file of a run.")
            return from_file(kind, directory / name, size)
        case {"path": str(path)}:
            return encode(Path(path))
    return None


def _sent(directory: Path, notes: list[str]) -> Mapping[str, Sequence[tuple[str, Sequence[Message]]]]:
    """The conversations of the journal (`journal.sqlite`), by node, in their order."""
    path = directory / "journal.sqlite"
    sent: dict[str, list[tuple[str, Sequence[Message]]]] = {}
    if not path.exists():
        return sent
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            known = {
                bytes(digest).hex(): Message(role=role, content=_text(content))
                for digest, role, content in database.execute("SELECT digest, role, content FROM messages")
            }
            rows = database.execute(
                "SELECT node, messages, text FROM calls WHERE text NOT NULL ORDER BY node, ordinal, id"
            )
            for node, digests, text in rows:
                messages = [known[digest] for digest in json.loads(digests)]
                sent.setdefault(str(node), []).append((_text(text), messages))
    except (sqlite3.Error, ValueError, KeyError) as error:
        notes.append(f"The prompts as sent are not shown: journal.sqlite cannot be read ({error}).")
    return sent


def _text(stored: object) -> str:
    """Texts with lone surrogates are stored as bytes."""
    return stored.decode("utf-8", "surrogatepass") if isinstance(stored, bytes) else str(stored)
