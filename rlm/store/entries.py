"""What a journal holds: its tables, and calls, their outcomes and queries as they come out of it. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rlm.types import ModelReply, Usage

FILE_NAME: Final = "journal.sqlite"
SCHEMA_VERSION: Final = 3  # 1 did not say what queries had asked, 2 not which tokens were set aside
ROOT: Final = "0"
TOO_LONG: Final = "context_too_long"  # the reason of a failure that a replay has to raise as what it was
GIVEN_BACK: Final = "given_back"  # the same, of a call that does not count: it was made again, shorter

SCHEMA: Final = """
CREATE TABLE calls (               -- each call that was sent, or that the budget refused
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL,            -- who asked: an RLM, or a plain sub-call, which is a node of its own
    ordinal INTEGER NOT NULL,      -- of the call at its node, from 1
    digest BLOB NOT NULL,          -- of model and messages
    model TEXT NOT NULL,
    parameters TEXT NOT NULL,      -- JSON
    messages TEXT NOT NULL,        -- JSON: digests of the messages (in hexadecimal), in order; none where refused
    state TEXT NOT NULL,           -- sent | answered | failed | lost | refused | abandoned
    stale INTEGER NOT NULL DEFAULT 0,  -- 1: a later replay took another way
    text, finish_reason, reply_model, request_id,
    status INTEGER,                -- of HTTP, of a call that failed
    usage TEXT,                    -- JSON
    cost_usd REAL,                 -- NULL where the price is unknown
    reserved_usd REAL,             -- what counts then; 0 where nothing was set aside
    reserved_tokens INTEGER,       -- what counts where a call may be billed, and nobody knows what it used
    sent REAL NOT NULL, ended REAL -- seconds since the epoch
);
CREATE TABLE messages (            -- each once, however many requests repeat it
    digest BLOB PRIMARY KEY, role TEXT NOT NULL, content NOT NULL
) WITHOUT ROWID;
CREATE TABLE queries (             -- what cells asked; the answer, where it is not that of the node's one call
    node TEXT PRIMARY KEY,
    digest BLOB NOT NULL,          -- of all that decides about the answer
    ok INTEGER, text,
    stale INTEGER NOT NULL DEFAULT 0
)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a call ended without a reply.

    `reason` is the limit that refused it, or the kind of failure; `status` the HTTP status; `usage` what was billed all the
    same, if the provider said so. It is `lost` where the provider may have replied, and bill that, but no reply arrived.
    """

    state: Literal["failed", "lost", "refused", "abandoned"]
    text: str
    reason: str | None = None
    status: int | None = None
    request_id: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedUsage:
    """What a recorded call used: counted once in every process that replays it. So much had been set aside for it, which is
    what counts where it is not `settled`: nobody knows what came of it.
    """

    node: str
    model: str
    usage: Usage
    reserved_tokens: int = 0
    reserved_usd: float = 0.0
    settled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLookup:
    """What the journal has of a call: its outcome, None where it has to be sent; and what now counts as spent.

    `diverged`: the nodes that take another way than the recorded one.
    """

    outcome: ModelReply | Failure | None = None
    spent: Sequence[RecordedUsage] = ()
    diverged: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryPlacement:
    """The node of a query. `diverged`: all queries of its cell are recorded, and this is none of them."""

    node: str
    diverged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAnswer:
    """The answer to a query; `spent` by all calls of its tree, which is not gone through again, by so many `rlms`."""

    ok: bool
    text: str
    spent: Sequence[RecordedUsage] = ()
    rlms: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A call that has a row. `counted`: what it used has been counted in this process, or is, as it is made there."""

    id: int
    node: str
    ordinal: int
    digest: bytes
    parameters: str
    state: Literal["sent", "answered", "failed", "lost", "refused", "abandoned"]
    counted: bool = False
