"""What is kept of the nodes of a run: those that are open, and of those that have ended the newest; the others are counts.

Texts are kept as they came; whoever shows them escapes them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from rlm.types import Outcome, Usage

KEPT_ENDED: Final = 16  # nodes of a group that have ended: as many as a screen has room for
KEPT_FAILED: Final = 4  # their reasons tell what goes wrong
OUTPUT_CHARS: Final = 8_000  # of its output, the newest

State = Literal["open", "done", "failed"]


@dataclass(slots=True)
class Used:
    """What calls used. `unknown`: some had no price, and `dollars` is that of the others."""

    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0
    unknown: bool = False

    def add(self, usage: Usage) -> None:
        self.calls += usage.calls
        self.tokens += usage.input_tokens + usage.output_tokens
        if usage.cost_usd is None:
            self.unknown = True
        else:
            self.dollars += usage.cost_usd

    def merge(self, other: Used) -> None:
        self.calls += other.calls
        self.tokens += other.tokens
        self.dollars += other.dollars
        self.unknown |= other.unknown


@dataclass(slots=True, kw_only=True)
class Cell:
    """The newest cell of an RLM. `outcome` is None while it runs; `output` ends with what was written last."""

    number: int
    code: str
    started: float
    ended: float | None = None
    outcome: Outcome | None = None
    output: str = ""
    error: str = ""

    def write(self, text: str) -> None:
        self.output = (self.output + text[-OUTPUT_CHARS:])[-OUTPUT_CHARS:]


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """Calls that belong together: one `llm_batch`, or the single calls of one cell (`batch` 0); in an RLM's `earlier`, all
    that are no longer kept. `model` is None where there are several.
    """

    recursive: bool
    batch: int
    model: str | None
    started: float
    latest: float
    asked: int = 0
    done: int = 0
    failed: int = 0
    used: Used = field(default_factory=Used)
    open: dict[str, Node] = field(default_factory=dict)
    ended: deque[Node] = field(default_factory=lambda: deque(maxlen=KEPT_ENDED))
    failures: deque[Node] = field(default_factory=lambda: deque(maxlen=KEPT_FAILED))

    def merge(self, other: Group) -> None:
        """Take in the counts of a group in which nothing is open."""
        self.asked += other.asked
        self.done += other.done
        self.failed += other.failed
        self.used.merge(other.used)
        self.latest = max(self.latest, other.latest)
        self.model = self.model if self.model == other.model else None
        self.recursive = self.recursive and other.recursive


@dataclass(slots=True, kw_only=True)
class Loop:
    """What only an RLM has. `asking`: its model has been asked and has not replied yet."""

    turn: int = 0
    of: int | None = 0
    asking: bool = False
    ready: bool = False
    cell: Cell | None = None
    errors: int = 0
    lost: int = 0
    compacted: int = 0
    tools: int = 0
    groups: dict[tuple[int, int], Group] = field(default_factory=dict)
    earlier: Group | None = None

    @property
    def calls_open(self) -> int:
        return sum(len(group.open) for group in self.groups.values())


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """An RLM (with a `loop`) or a plain call. `note` is what was asked; once it has failed, the reason. `used` includes
    all nodes below it.
    """

    name: str
    parent: Node | None
    group: Group | None
    model: str
    note: str
    started: float
    ended: float | None = None
    state: State = "open"
    from_journal: bool = False
    used: Used = field(default_factory=Used)
    loop: Loop | None = None
