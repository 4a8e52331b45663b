"""RLMs in Inspect AI (extra `inspect`): a solver and an agent that use Inspect's models, limits, logs and providers.

    from rlm.integrations.inspect_ai import rlm_solver

    samples = [Sample(input="Which ...?", metadata={"context": long_text})]
    Task(dataset=samples, solver=rlm_solver(depth=1), scorer=match())

Imports orchestrator and what is below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Unpack

from inspect_ai.agent import AgentState, agent
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    get_model,
)
from inspect_ai.solver import Generate, TaskState, solver
from inspect_ai.util import LimitExceededError

from rlm.errors import ConfigError, ModelError
from rlm.models.base import Model
from rlm.orchestrator import Orchestrator
from rlm.run.options import OptionsDict
from rlm.types import Completion, Context, Message, ModelReply, Usage

CONTEXT_KEY: Final = "context"  # key of the context in a sample's metadata
SUB_ROLE: Final = "sub"  # Inspect's model role for sub-calls
FINISH_REASONS: Final = {"max_tokens": "length", "model_length": "length"}  # Inspect's stop reasons as OpenAI's


class InspectModel(Model):
    """Adapts a model of Inspect to rlm's `Model`.

    Args:
        model: a model from `inspect_ai.model.get_model`.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.name = str(model)
        self.max_tokens = model.config.max_tokens

    async def complete(self, messages: Sequence[Message], *, max_tokens: int | None = None) -> ModelReply:
        """Get one reply; Inspect's retries, connections and limits apply.

        Raises:
            ModelError: the model returned no usable reply.
            LimitExceededError: the sample reached one of its limits.
        """
        config = GenerateConfig() if max_tokens is None else GenerateConfig(max_tokens=max_tokens)
        try:
            output = await self._model.generate([_message(message) for message in messages], config=config)
        except LimitExceededError:
            raise
        except Exception as error:
            raise ModelError(f"{self.name}: {type(error).__name__}: {error}") from error
        used = output.usage
        usage = Usage(
            calls=1,
            input_tokens=used.input_tokens if used else 0,
            output_tokens=used.output_tokens if used else 0,
            cached_tokens=(used and used.input_tokens_cache_read) or 0,
            reasoning_tokens=(used and used.reasoning_tokens) or 0,
            cost_usd=None,
        )
        if output.error or not output.completion:
            raise ModelError(f"{self.name} returned no text: {output.error or output.stop_reason}", usage=usage)
        reason = FINISH_REASONS.get(output.stop_reason, output.stop_reason)
        return ModelReply(text=output.completion, usage=usage, model=self.name, finish_reason=reason)


def rlm_solver(
    *,
    calls: Any = None,
    context: Callable[[TaskState], Context] | str = CONTEXT_KEY,
    **options: Unpack[OptionsDict],
) -> Any:
    """A solver in which an RLM answers the sample's input from its context.

    The root model is the task's (`--model`). The answer becomes the output. The store gets `rlm`: the run's directory and
    usage.

    Args:
        calls: the model for sub-calls or its name; None is the model role `sub`, else the task's model.
        context: a key of the sample's metadata, or a function of the state. Without that key, the sample's input is the
            context.
        options: options of `Orchestrator`, except the models.
    """
    return _solver(sub_model=calls, context=context, options=options)


def rlm_agent(*, calls: Any = None, **options: Unpack[OptionsDict]) -> Any:
    """An agent in which an RLM answers the latest user message, with the whole conversation as context."""
    return _agent(sub_model=calls, options=options)


def _make_solver(*, sub_model: Any, context: Callable[[TaskState], Context] | str, options: OptionsDict) -> Any:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if callable(context):
            text: Context = context(state)
        elif context in state.metadata:
            text = _as_context(state.metadata[context])
        else:
            text = state.input_text
        query = None if text is state.input_text else state.input_text
        done = await _answer(text, query, sub_model, options)
        state.store.set("rlm", _as_store_dict(done))
        state.messages.append(ChatMessageAssistant(content=done.answer))
        state.output = ModelOutput.from_content(model=str(get_model()), content=done.answer)
        return state

    return solve


def _make_agent(*, sub_model: Any, options: OptionsDict) -> Any:
    async def execute(state: AgentState) -> AgentState:
        """Answers questions about long conversations by writing and running code over them."""
        messages = [{"role": message.role, "content": message.text} for message in state.messages]
        questions = [message["content"] for message in messages if message["role"] == "user"]
        if not questions:
            raise ConfigError("The conversation has no user message to answer.")
        done = await _answer(messages, questions[-1], sub_model, options)
        state.messages.append(ChatMessageAssistant(content=done.answer))
        state.output = ModelOutput.from_content(model=str(get_model()), content=done.answer)
        return state

    return execute


_solver = solver(name="rlm")(_make_solver)
_agent = agent(name="rlm", description="Answers a question about a long text with code and model calls.")(_make_agent)


async def _answer(context: Context, query: str | None, sub_model: Any, options: OptionsDict) -> Completion:
    root = get_model()
    sub = get_model(role=SUB_ROLE, default=root) if sub_model is None else get_model(sub_model)
    merged: OptionsDict = {**options, "model": InspectModel(root), "sub_model": InspectModel(sub)}
    try:
        return await Orchestrator(**merged).acompletion(context, query)
    except* LimitExceededError as reached:  # one of several concurrent calls
        raise _first(reached) from None


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first error of a group: Inspect handles its own error, but no group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _as_context(value: Any) -> Context:
    """The context in a metadata value: `file:PATH` is a file or folder, any other text is itself the context."""
    if isinstance(value, str) and value.startswith("file:"):
        return Path(value.removeprefix("file:"))
    return value  # type: ignore[no-any-return]


def _message(message: Message) -> ChatMessage:
    match message.role:
        case "system":
            return ChatMessageSystem(content=message.content)
        case "user":
            return ChatMessageUser(content=message.content)
    return ChatMessageAssistant(content=message.content)


def _as_store_dict(done: Completion) -> dict[str, object]:
    return {
        "run_dir": str(done.run_dir),
        "stop_reason": done.stop_reason,
        "calls": done.usage.calls,
        "sub_calls": done.sub_calls,
        "iterations": done.iterations,
        "seconds": done.seconds,
    }
