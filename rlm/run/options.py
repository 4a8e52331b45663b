"""How runs are made: the arguments of `Orchestrator`, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from rlm.config import Limits, SandboxConfig
from rlm.errors import ConfigError
from rlm.events import OnEvent
from rlm.models.base import Model
from rlm.models.prices import Price
from rlm.prompts import SystemPrompt, default_system_prompt
from rlm.sandbox.base import SandboxFactory
from rlm.sandbox.slots import LevelSlots

PATHS: Final = ("run_root", "cache")  # options that may be given as text


class OptionsDict(TypedDict, total=False):
    """The arguments of `Orchestrator`, each of which a single completion may set differently."""

    depth: int
    model: str | Model | None
    sub_model: str | Model | None
    level_models: Mapping[int, str | Model]
    limits: Limits
    on_limit: Literal["answer", "raise"]
    prices: Mapping[str, Price]
    sandbox: SandboxConfig
    sandbox_factory: SandboxFactory | None
    system_prompt: SystemPrompt
    tools: Mapping[str, Callable[..., object]]
    tools_for_children: bool
    run_root: str | Path | None
    cache: str | Path | None
    verbose: bool
    on_event: OnEvent | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The same, with defaults, checked. See `Orchestrator` for the meaning of each."""

    depth: int = 1
    model: str | Model | None = None
    sub_model: str | Model | None = None
    level_models: Mapping[int, str | Model] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    on_limit: Literal["answer", "raise"] = "answer"
    prices: Mapping[str, Price] = field(default_factory=dict)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    sandbox_factory: SandboxFactory | None = None
    system_prompt: SystemPrompt = default_system_prompt
    tools: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    tools_for_children: bool = False
    run_root: Path | None = None
    cache: Path | None = None
    verbose: bool = False
    on_event: OnEvent | None = None

    def __post_init__(self) -> None:
        if type(self.depth) is not int or self.depth < 0:
            raise ConfigError(f"depth={self.depth!r} is not a number of levels: give 0, 1, 2, ...")
        if self.limits.max_depth is not None and self.depth > self.limits.max_depth:
            raise ConfigError(
                f"depth={self.depth} is more than Limits(max_depth={self.limits.max_depth}) allows: give a smaller depth."
            )
        if self.on_limit not in ("answer", "raise"):
            raise ConfigError(f"on_limit={self.on_limit!r} cannot be: give 'answer' or 'raise'.")
        for name, price in self.prices.items():
            if not isinstance(price, Price):
                raise ConfigError(f"prices[{name!r}] is a {type(price).__name__}: give Price(input=..., output=...).")

    def changed(self, changes: OptionsDict) -> Options:
        """With these in place of its own. Raises ConfigError where there is no such option."""
        unknown = changes.keys() - OptionsDict.__annotations__.keys()
        if unknown:
            known = ", ".join(OptionsDict.__annotations__)
            raise ConfigError(f"There is no option {', '.join(sorted(unknown))}; the options are: {known}.")
        values: dict[str, Any] = {
            name: Path(value) if name in PATHS and isinstance(value, str) else value for name, value in changes.items()
        }
        return dataclasses.replace(self, **values)


def slots_of(options: Options) -> LevelSlots:
    """The sandboxes of a run that may be alive at once. Raises ConfigError where they are too few."""
    return LevelSlots(slots=options.limits.max_sandboxes, levels=max(1, options.depth))
