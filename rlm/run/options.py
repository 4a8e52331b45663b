"""The options of a run: the arguments of `Orchestrator`, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, cast

from rlm.config import Limits, SandboxConfig
from rlm.errors import ConfigError
from rlm.events import OnEvent
from rlm.models.base import Model
from rlm.models.options import checked_options
from rlm.models.prices import Price
from rlm.prompts import SystemPrompt, default_system_prompt
from rlm.sandbox.base import SandboxFactory
from rlm.sandbox.slots import LevelSlots

PATHS: Final = ("run_root", "cache")  # options that accept a str


class _Unset:
    def __repr__(self) -> str:
        return "<unset>"


UNSET: Final[Any] = _Unset()  # default of an option in a signature; means that the caller did not pass it


class OptionsDict(TypedDict, total=False):
    """Options that a caller passed to `Orchestrator` or to a single completion."""

    depth: int
    model: str | Model | None
    sub_model: str | Model | None
    level_models: Mapping[int, str | Model]
    model_options: Mapping[str, object] | None
    sub_model_options: Mapping[str, object] | None
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
    """All options of a run, validated. See `Orchestrator` for their meaning."""

    depth: int = 1
    model: str | Model | None = None
    sub_model: str | Model | None = None
    level_models: Mapping[int, str | Model] = field(default_factory=dict)
    model_options: Mapping[str, object] | None = None
    sub_model_options: Mapping[str, object] | None = None
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
            raise ConfigError(f"depth={self.depth!r} is invalid: use 0, 1, 2, ...")
        if self.limits.max_depth is not None and self.depth > self.limits.max_depth:
            raise ConfigError(
                f"depth={self.depth} exceeds Limits(max_depth={self.limits.max_depth}): use a smaller depth."
            )
        if self.on_limit not in ("answer", "raise"):
            raise ConfigError(f"on_limit={self.on_limit!r} is invalid: use 'answer' or 'raise'.")
        for name, model in (("model_options", self.model), ("sub_model_options", self.sub_model)):
            if (options := getattr(self, name)) is None:
                continue
            object.__setattr__(self, name, checked_options(options, name=name))
            if isinstance(model, Model):
                raise ConfigError(f"{name} is for a model given by name: pass its options to {model.name!r} itself.")
        for name, price in self.prices.items():
            if not isinstance(price, Price):
                raise ConfigError(f"prices[{name!r}] is a {type(price).__name__}: use Price(input=..., output=...).")

    def changed(self, changes: OptionsDict) -> Options:
        """A copy with these options changed. Raises ConfigError if one is invalid."""
        values: dict[str, Any] = {
            name: Path(value) if name in PATHS and isinstance(value, str) else value for name, value in changes.items()
        }
        return dataclasses.replace(self, **values)


def explicit_options(arguments: Mapping[str, object]) -> OptionsDict:
    """The options among a method's arguments (its `locals()`) that the caller passed."""
    explicit = {name: arguments[name] for name in OptionsDict.__annotations__ if arguments[name] is not UNSET}
    return cast("OptionsDict", explicit)


def slots_of(options: Options) -> LevelSlots:
    """The sandbox slots of a run. Raises ConfigError if it has fewer slots than levels."""
    return LevelSlots(slots=options.limits.max_sandboxes, levels=max(1, options.depth))
