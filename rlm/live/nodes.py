"""The nodes of a run: open nodes, the newest finished ones, and counts of the rest. Pure.

Texts are stored unescaped. Code that shows them must escape them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from rlm.types import Outcome, Usage

KEPT_FINISHED: Final = 16  # finished nodes of a group: a screen shows no more
KEPT_FAILED: Final = 4  # failed nodes of a group: a few reasons explain the failures
OUTPUT_CHARS: Final = 8_000  # the end of a cell's output: more than a screen shows

State = Literal["open", "done", "failed"]


@dataclass(slots=True)
class Used:
    """Usage of calls. If `unknown`, some calls had no known price and `dollars` covers only the others."""

    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0
    unknown: bool = False

    def add(self, usage: Usage) -> None:
        """Add the usage of a call."""
        self.calls += usage.calls
        self.tokens += usage.input_tokens + usage.output_tokens
        if usage.cost_usd is None:
            self.unknown = True
        else:
            self.dollars += usage.cost_usd

    def merge(self, other: Used) -> None:
        """Add the usage of several calls."""
        self.calls += other.calls
        self.tokens += other.tokens
        self.dollars += other.dollars
        self.unknown |= other.unknown


@dataclass(slots=True, kw_only=True)
class Cell:
    """The latest cell of an RLM. `outcome` is None while it runs; `output` is the end of its output."""

    number: int
    code: str
    started: float
    ended: float | None = None
    outcome: Outcome | None = None
    output: str = ""
    error: str = ""

    def write(self, text: str) -> None:
        """Append output, of which only the end is kept."""
        self.output = (self.output + text[-OUTPUT_CHARS:])[-OUTPUT_CHARS:]


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """Calls counted together: one `llm_batch`, or the single calls of one cell (`batch` 0).

    `earlier` of a `Loop` is the sum of the groups dropped so far. `model` is None if the calls went to several models.
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
    ended: deque[Node] = field(default_factory=lambda: deque(maxlen=KEPT_FINISHED))
    failures: deque[Node] = field(default_factory=lambda: deque(maxlen=KEPT_FAILED))

    def merge(self, other: Group) -> None:
        """Add the counts of a group without open calls."""
        self.asked += other.asked
        self.done += other.done
        self.failed += other.failed
        self.used.merge(other.used)
        self.latest = max(self.latest, other.latest)
        self.model = self.model if self.model == other.model else None
        self.recursive = self.recursive and other.recursive


@dataclass(slots=True, kw_only=True)
class Loop:
    """State that only an RLM has. `asking`: a request to its model is pending. `max_turns` None: no limit."""

    turn: int = 0
    max_turns: int | None = 0
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
        """The number of open calls."""
        return sum(len(group.open) for group in self.groups.values())


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """An RLM (with a `loop`) or a plain call.

    `note` is the prompt, or the reason of a failure. `used` includes all nodes below.
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
