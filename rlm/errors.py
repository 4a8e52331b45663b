"""Every error that rlm raises. The class says who has to act."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import Completion, Usage


class RLMError(Exception):
    """Base of all errors of this package."""


class ConfigError(RLMError):
    """The caller asked for something that cannot be: the sentence says what to change."""


class EngineUnavailable(RLMError):
    """Docker cannot be reached, or lacks the image: the sentence says how to start or build it."""


class ModelError(RLMError):
    """The provider did not give a usable reply.

    Attributes:
        status: the HTTP status, if there was a response.
        request_id: the provider's id of the request, if it gave one.
        usage: what the provider counted for the reply that cannot be used, if it did: that is billed all the same. Where it
            did not, and gave no status of an error either, the call counts as estimated.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id
        self.usage = usage


class ContextTooLong(ModelError):
    """The conversation, or the prompt, is longer than the model's window."""


class ReplyCutOff(ModelError):
    """The limit on output tokens was used up before there was any text, by reasoning perhaps."""


class SandboxError(RLMError):
    """A sandbox failed."""


class SandboxStartError(SandboxError):
    """A container could not be created or did not come up in time."""


class SandboxDied(SandboxError):
    """A sandbox ended while it was in use (killed from outside, out of memory as a whole)."""


class SandboxMisbehaved(SandboxError):
    """A sandbox broke the protocol or a limit; it has been removed."""


class ToolError(RLMError):
    """A tool gives no value, and its text is for the sandbox to read: the one error of a tool that is told there."""


class JournalError(RLMError):
    """A run's record cannot be written or read: the sentence says what its owner can do."""


class RunCancelled(RLMError):
    """A run was cancelled before it had an answer."""

    def __init__(self) -> None:
        super().__init__("The run was cancelled; `rlm resume` goes on with it.")


class ReplayDivergedError(RLMError):
    """A replay asked a model for something that the run had not asked: prompts, code or image are not the run's.

    Attributes:
        node: where.
        ordinal: of the call at its node, from 1.
    """

    def __init__(self, *, node: str, ordinal: int) -> None:
        super().__init__(
            f"The replay is not the run: call {ordinal} of node {node} is not the recorded one. What differs is in its "
            "cells, the prompts, or the options."
        )
        self.node = node
        self.ordinal = ordinal


class LimitExceeded(RLMError):
    """A limit of the run was reached and the caller asked for an error instead of a best answer.

    Attributes:
        partial: what the run had when it stopped, if it had started.
    """

    def __init__(self, message: str, *, partial: Completion | None = None) -> None:
        super().__init__(message)
        self.partial = partial
