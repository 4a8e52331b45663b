"""The context and the outcome of a method."""

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
class MethodOutcome:
    """A method's answer to an instance, with its usage and other counts.

    Attributes:
        answer: the output to score.
        usage: usage of all model calls.
        by_node: usage of each node of the call tree.
        stop_reason: `final`, the limit that ended the run, or `length` for a truncated reply.
        iterations: number of turns of the root RLM.
        sub_calls: number of model calls below the root.
        depth: deepest level called.
        sandboxes: number of containers started.
        run_dir: the run's directory; None if the method keeps no record.
        resumed: whether an earlier process started the run.
        note: a caveat for readers of the score, such as a truncated context.
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
    """The models, limits and other settings of methods.

    Attributes:
        models: returns the root model and the sub-model of a task, given its name.
        limits: limits of each RLM run.
        sandbox: configuration of the containers.
        sandbox_factory: makes sandboxes other than containers, for tests.
        window: context window of the root model in tokens; overrides what the model reports.
        system_prompt: makes the system prompt of RLMs.
        verbose: whether to print every turn of RLMs.
    """

    models: Callable[[str], tuple[str | Model, str | Model]]
    limits: Limits = field(default_factory=Limits)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    sandbox_factory: SandboxFactory | None = None
    window: int | None = None
    system_prompt: SystemPrompt = default_system_prompt
    verbose: bool = False


Method = Callable[[Instance, MethodContext, Path], Awaitable[MethodOutcome]]
"""Answers an instance; the path is the folder of its runs."""
