"""All errors that rlm raises. The class shows who has to act. Imports nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .types import Completion, Usage


class RLMError(Exception):
    """Base of all errors of this package. They can be pickled and copied, as process pools do."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, unpickling passes the message to `__init__`, which may take other arguments.
        return _restored, (type(self), self.args, self.__dict__)


class ConfigError(RLMError):
    """The caller passed an invalid argument or setting. The message says what to change."""


class EngineUnavailable(RLMError):
    """Docker is unreachable, or the image is missing. The message says how to start or build it."""


class ModelError(RLMError):
    """The provider gave no usable reply.

    Attributes:
        status: HTTP status of the response, if any.
        request_id: the provider's ID of the request, if any.
        usage: what the provider counted for an unusable reply, which it bills all the same. Without usage and error
            status, the estimate of the call counts.
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
    """The conversation or prompt exceeds the model's context window.

    Attributes:
        window: tokens of that window, if the server stated them.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        usage: Usage | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(message, status=status, request_id=request_id, usage=usage)
        self.window = window


class EmptyReply(ModelError):
    """A reply without usable text. An RLM's own model is asked again, a cell that called gets the error.

    Attributes:
        finish_reason: the provider's word: `length` (the output limit was reached first), `tool_calls`, `content_filter`,
            `stop`. `refusal` if the model refused in a separate field.
        text: what stood in place of text, for the model's own conversation: a tool call, a refusal. Often empty.
        thinking: reasoning that came with the reply.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        usage: Usage | None = None,
        finish_reason: str = "stop",
        text: str = "",
        thinking: str = "",
    ) -> None:
        super().__init__(message, status=status, request_id=request_id, usage=usage)
        self.finish_reason = finish_reason
        self.text = text
        self.thinking = thinking


class SandboxError(RLMError):
    """A sandbox failed."""


class SandboxStartError(SandboxError):
    """A container could not be created, or did not start in time."""


class SandboxDied(SandboxError):
    """A sandbox ended during use: killed from outside, or out of memory."""


class SandboxMisbehaved(SandboxError):
    """A sandbox violated the protocol or a limit, and was removed."""


class ToolError(RLMError):
    """Raise this in a tool to show the message to the sandbox. Other exceptions of tools stay hidden from it."""


class JournalError(RLMError):
    """Writing or reading the run directory failed. The message says what to do."""


class RunCancelled(RLMError):
    """The run was cancelled before it had an answer."""

    def __init__(self) -> None:
        super().__init__("The run was cancelled. To continue it, use `rlm resume`.")


class ReplayDivergedError(RLMError):
    """A replay made a request that its run did not make: prompts, code or image differ.

    Attributes:
        node: the node that made the request.
        ordinal: number of the call at that node, from 1.
    """

    def __init__(self, *, node: str, ordinal: int) -> None:
        super().__init__(
            f"Replay diverged at node {node}, call {ordinal}: cells, prompts or options differ from the recorded run."
        )
        self.node = node
        self.ordinal = ordinal


class LimitExceeded(RLMError):
    """A limit ended the run, and the caller set `on_limit="raise"`.

    Attributes:
        partial: the completion with the best answer, if the run had started.
    """

    def __init__(self, message: str, *, partial: Completion | None = None) -> None:
        super().__init__(message)
        self.partial = partial


def _restored(kind: type[RLMError], arguments: tuple[object, ...], attributes: dict[str, object]) -> RLMError:
    """Rebuild a pickled error."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(attributes)
    return error
