"""What a method gets and gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlm.config import Limits, SandboxConfig
from rlm.evals.task import Instance
from rlm.models.base import Model
from rlm.prompts import SystemPrompt, default_system_prompt
from rlm.sandbox.base import SandboxFactory
from rlm.types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a method gave for an instance. `note` is what a reader of the score should know, such as a context that was cut.

    `run_dir` is that of the run, where there is one; `resumed`: it was begun by an earlier process.
    """

    answer: str
    usage: Usage = field(default_factory=Usage)
    by_node: Mapping[str, Usage] = field(default_factory=dict)
    stop_reason: str = "final"
    iterations: int = 0
    sub_calls: int = 0
    depth: int = 0
    sandboxes: int = 0
    run_dir: Path | None = None
    resumed: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContext:
    """What methods work with.

    `models` gives the root model and the sub-model for a task, by its name. `window` is the root model's, in tokens, over
    what is known of it. `sandboxes` makes them where they are not to be containers (tests). `system_prompt` is that of RLMs.
    """

    models: Callable[[str], tuple[str | Model, str | Model]]
    limits: Limits = field(default_factory=Limits)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    sandbox_factory: SandboxFactory | None = None
    window: int | None = None
    system_prompt: SystemPrompt = default_system_prompt
    verbose: bool = False


Method = Callable[[Instance, MethodContext, Path], Awaitable[Outcome]]
