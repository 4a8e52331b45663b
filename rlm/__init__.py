"""Recursive Language Models, run safely.

    from rlm import Orchestrator
    print(Orchestrator(depth=3).completion(context, "What changed between the two reports?"))

Importing the package is cheap and does no I/O: each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Limits as Limits
    from .config import SandboxConfig as SandboxConfig
    from .errors import ConfigError as ConfigError
    from .errors import EngineUnavailable as EngineUnavailable
    from .errors import JournalError as JournalError
    from .errors import LimitExceeded as LimitExceeded
    from .errors import ModelError as ModelError
    from .errors import ReplayDiffers as ReplayDiffers
    from .errors import RLMError as RLMError
    from .errors import RunCancelled as RunCancelled
    from .errors import SandboxDied as SandboxDied
    from .errors import SandboxError as SandboxError
    from .errors import SandboxMisbehaved as SandboxMisbehaved
    from .errors import SandboxStartError as SandboxStartError
    from .errors import ToolError as ToolError
    from .models.openai import OpenAIModel as OpenAIModel
    from .models.prices import Price as Price
    from .models.scripted import ScriptedModel as ScriptedModel
    from .orchestrator import Orchestrator as Orchestrator
    from .prompts import PromptFacts as PromptFacts
    from .run.handle import Run as Run
    from .run.session import Session as Session
    from .sandbox.blocking import BlockingSandbox as BlockingSandbox
    from .sandbox.docker.container import DockerSandbox

    Sandbox = DockerSandbox
    from .types import CellResult as CellResult
    from .types import Completion as Completion
    from .types import Message as Message
    from .types import ModelReply as ModelReply
    from .types import Usage as Usage

_HOMES = {
    "BlockingSandbox": "rlm.sandbox.blocking",
    "CellResult": "rlm.types",
    "Completion": "rlm.types",
    "ConfigError": "rlm.errors",
    "EngineUnavailable": "rlm.errors",
    "JournalError": "rlm.errors",
    "LimitExceeded": "rlm.errors",
    "Limits": "rlm.config",
    "Message": "rlm.types",
    "ModelError": "rlm.errors",
    "ModelReply": "rlm.types",
    "OpenAIModel": "rlm.models.openai",
    "Orchestrator": "rlm.orchestrator",
    "Price": "rlm.models.prices",
    "PromptFacts": "rlm.prompts",
    "RLMError": "rlm.errors",
    "Run": "rlm.run.handle",
    "RunCancelled": "rlm.errors",
    "Sandbox": "rlm.sandbox.docker.container",
    "ReplayDiffers": "rlm.errors",
    "SandboxConfig": "rlm.config",
    "SandboxDied": "rlm.errors",
    "SandboxError": "rlm.errors",
    "SandboxMisbehaved": "rlm.errors",
    "SandboxStartError": "rlm.errors",
    "ScriptedModel": "rlm.models.scripted",
    "Session": "rlm.run.session",
    "ToolError": "rlm.errors",
    "Usage": "rlm.types",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), "DockerSandbox" if name == "Sandbox" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOMES)
