"""The tables of a journal, and its calls, outcomes and queries as data. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rlm.types import ModelReply, Usage

FILE_NAME: Final = "journal.sqlite"
SCHEMA_VERSION: Final = 4  # 1 had no digests of queries, 2 no reserved tokens, 3 no thinking
ROOT: Final = "0"
TOO_LONG: Final = "context_too_long"  # reason for a failure that a replay raises as ContextTooLong
GIVEN_BACK: Final = "given_back"  # as TOO_LONG, for a call that does not count because a shorter one replaced it

SCHEMA: Final = """
CREATE TABLE calls (               -- each call that was sent, or that the budget refused
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL,            -- the caller: an RLM, or a plain sub-call, which is its own node
    ordinal INTEGER NOT NULL,      -- number of the call at its node, from 1
    digest BLOB NOT NULL,          -- SHA-256 of model and messages
    model TEXT NOT NULL,
    parameters TEXT NOT NULL,      -- JSON
    messages TEXT NOT NULL,        -- JSON: hexadecimal digests of the messages, in order; empty if refused
    state TEXT NOT NULL,           -- sent | answered | failed | lost | refused | abandoned
    stale INTEGER NOT NULL DEFAULT 0,  -- 1: a later replay took another path
    text, finish_reason, reply_model, request_id, thinking,
    window INTEGER,                -- tokens of the model's window, if a refusal stated them
    status INTEGER,                -- HTTP status of a failed call
    usage TEXT,                    -- JSON
    cost_usd REAL,                 -- NULL if the price is unknown
    reserved_usd REAL,             -- counts if the price is unknown; 0 if nothing was reserved
    reserved_tokens INTEGER,       -- count if the call may be billed and its usage is unknown
    sent REAL NOT NULL, ended REAL -- seconds since the epoch
);
CREATE TABLE messages (            -- one row per text, even if many requests repeat it
    digest BLOB PRIMARY KEY, role TEXT NOT NULL, content NOT NULL
) WITHOUT ROWID;
CREATE TABLE queries (             -- queries of cells; without the answer if that is the reply to the node's one call
    node TEXT PRIMARY KEY,
    digest BLOB NOT NULL,          -- SHA-256 of everything that determines the answer
    ok INTEGER, text,
    stale INTEGER NOT NULL DEFAULT 0
)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a call ended without a reply.

    `reason` is the limit that refused it, or the kind of failure; `status` the HTTP status; `usage` what the provider
    billed all the same; `window` the tokens of the model's window that a refusal stated. A `lost` call may be billed,
    too: its reply, if any, did not arrive.
    """

    state: Literal["failed", "lost", "refused", "abandoned"]
    text: str
    reason: str | None = None
    status: int | None = None
    request_id: str | None = None
    usage: Usage | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedUsage:
    """The usage of a recorded call, counted once in every process that replays it.

    Unless it is `settled`, the reservation counts, because the call's usage is unknown.
    """

    node: str
    model: str
    usage: Usage
    reserved_tokens: int = 0
    reserved_usd: float = 0.0
    settled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLookup:
    """The journal's answer to a call. `outcome` is None if the call has to be sent. `usage` counts from now on.

    `diverged` are the nodes that no longer follow the record.
    """

    outcome: ModelReply | Failure | None = None
    usage: Sequence[RecordedUsage] = ()
    diverged: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryPlacement:
    """The node of a query. `diverged`: the record of its cell is complete and lacks the query."""

    node: str
    diverged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAnswer:
    """The answer to a query, with the `usage` of all calls below it and the number of `rlms` that made them."""

    ok: bool
    text: str
    usage: Sequence[RecordedUsage] = ()
    rlms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedQuery:
    """A query's row, without the answer's text. `ok` is None without an answer, or if the node's one call holds it."""

    node: str
    digest: bytes
    ok: bool | None
    stale: bool


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A call that has a row. `counted`: its usage counts in this process."""

    id: int
    node: str
    ordinal: int
    digest: bytes
    parameters: str
    state: Literal["sent", "answered", "failed", "lost", "refused", "abandoned"]
    counted: bool = False
