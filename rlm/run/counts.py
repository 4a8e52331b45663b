"""The counts that a `Completion` reports. They grow over a run: each question reports the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlm.events import AnswerReplayed, Event, RLMStarted, SandboxLost, SubCallStarted
from rlm.types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """The counts of a run at one moment."""

    usage: Usage = field(default_factory=Usage)
    by_model: Mapping[str, Usage] = field(default_factory=dict)
    by_node: Mapping[str, Usage] = field(default_factory=dict)
    sub_calls: int = 0
    sandboxes: int = 0
    unaccounted: int = 0
    replayed: int = 0
    resent_calls: int = 0
    diverged: tuple[str, ...] = ()

    def since(self, before: RunCounts) -> RunCounts:
        """The counts added since an earlier moment."""
        return RunCounts(
            usage=self.usage.since(before.usage),
            by_model=_since(self.by_model, before.by_model),
            by_node=_since(self.by_node, before.by_node),
            sub_calls=self.sub_calls - before.sub_calls,
            sandboxes=self.sandboxes - before.sandboxes,
            unaccounted=self.unaccounted - before.unaccounted,
            replayed=self.replayed - before.replayed,
            resent_calls=self.resent_calls - before.resent_calls,
            diverged=self.diverged[len(before.diverged) :],
        )


def _since(now: Mapping[str, Usage], before: Mapping[str, Usage]) -> dict[str, Usage]:
    """The added usage by name, without unchanged names."""
    return {name: usage.since(before.get(name, Usage())) for name, usage in now.items() if usage != before.get(name)}


class CountingListener:
    """An event listener that counts sandboxes and calls below the root."""

    def __init__(self) -> None:
        self.sandboxes = 0
        self.sub_calls = 0
        self.depth_reached = 0

    def __call__(self, event: Event) -> None:
        match event:
            case RLMStarted() | SandboxLost():
                self.sandboxes += 1
            case AnswerReplayed():
                self.sub_calls += len(event.below)
                self.depth_reached = max(self.depth_reached, *(node.count(".") for node in event.below), 0)
            case SubCallStarted():
                self.sub_calls += 1
                self.depth_reached = max(self.depth_reached, event.node.count("."))
