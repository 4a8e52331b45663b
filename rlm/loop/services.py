"""The services that the RLMs of a run share, and the tools and system prompt of each. Imports calls and what is below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rlm.calls.gateway import Calls
from rlm.config import Limits
from rlm.events import ToolUsed
from rlm.models.base import Model
from rlm.prompts import PromptContext, SystemPrompt
from rlm.sandbox.base import SandboxFactory
from rlm.sandbox.slots import LevelSlots
from rlm.sandbox.tools import Tools, ToolUse
from rlm.store.event_log import EventLog

from .control import RunControl
from .task import RLMTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The services that the RLMs of a run share.

    Attributes:
        limits: limits of the run.
        calls: makes model calls.
        events: the run's event log.
        slots: admit RLMs to sandboxes, by level.
        sandbox_factory: makes sandboxes.
        run_id: ID of the run.
        system_prompt: makes the system prompt of each RLM.
        model_at: returns the model of a level.
        by_name: models that a query may name.
        control: decides when RLMs pause, or stop and answer.
        tools: host functions that cells may call.
        tools_for_children: whether RLMs below the root get the tools, too.
        windows: windows in tokens, by model name: those on record that the models themselves no longer know, and those that
            servers stated when they refused a conversation. Each RLM begins with those that the RLMs above it learned,
            and adds to a copy. So a replay learns the same.
    """

    limits: Limits
    calls: Calls
    events: EventLog
    slots: LevelSlots
    sandbox_factory: SandboxFactory
    run_id: str
    system_prompt: SystemPrompt
    model_at: Callable[[int], Model]
    by_name: Mapping[str, Model]
    control: RunControl
    tools: Tools
    tools_for_children: bool
    windows: dict[str, int] = field(default_factory=dict)

    def window_of(self, model: Model) -> int | None:
        """The window of a model in tokens, if it is known."""
        return self.windows.get(model.name, model.context_window)


def tools_of(task: RLMTask, services: Services) -> Tools:
    """The tools of one RLM. Each use becomes an event."""
    if task.level > 0 and not services.tools_for_children:
        return Tools({})

    def record(use: ToolUse) -> None:
        services.events.emit(
            ToolUsed(node=task.node, tool=use.name, arguments=use.arguments, ok=use.ok, seconds=use.seconds)
        )

    return services.tools.with_callback(record)


def system_prompt_of(task: RLMTask, services: Services) -> str:
    """The system prompt of one RLM."""
    sub_model = services.model_at(task.level + 1)
    context = PromptContext(
        model=task.model.name,
        sub_model=sub_model.name,
        models=tuple(services.by_name),
        level=task.level,
        depth=task.depth,
        limits=services.limits,
        tools=tuple(tools_of(task, services).descriptions.values()),
        window=services.window_of(task.model),
        sub_window=services.window_of(sub_model),
    )
    return services.system_prompt(context)
