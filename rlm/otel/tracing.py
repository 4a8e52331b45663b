"""A listener that turns events into spans. The only module that imports OpenTelemetry's API."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final, Literal

from rlm.errors import ConfigError
from rlm.events import (
    AnswerReplayed,
    CellFinished,
    CellStarted,
    Compacted,
    Event,
    LimitsRaised,
    ModelFailed,
    ModelReplied,
    QuestionAsked,
    ReplayDiverged,
    RLMFinished,
    RLMStarted,
    RunFinished,
    RunResumed,
    RunStarted,
    SandboxLost,
    SubCallFinished,
    SubCallStarted,
    ToolUsed,
    TurnStarted,
)
from rlm.loop.observation import describe
from rlm.types import Message, Usage

from .attributes import (
    MAX_TEXT_CHARS,
    Attributes,
    Value,
    as_json,
    clean,
    cut,
    input_messages,
    output_messages,
    usage_attributes,
)

try:
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider, get_tracer, set_span_in_context
except ImportError as missing:
    raise ConfigError("OpenTelemetry is not installed: pip install 'rlm[otel]'.") from missing

CAPTURE_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CAPTURE_VALUES: Final = ("true", "span_only", "span_and_event")  # values that put content into spans
MAX_NAME_CHARS: Final = 100  # limit of a span's name that a model chose

SentMessages = Callable[[str, str], Sequence[Message]]


@dataclass(slots=True, kw_only=True)
class _Node:
    """State of an open node. `agent` and `cell` are its open spans."""

    agent: Span | None = None
    cell: Span | None = None
    model: str = ""
    prompt: str | None = None
    turn: int = 0
    has_chat: bool = False  # whether a model call of the node has a span
    used: Usage = field(default_factory=Usage)

    @property
    def inner(self) -> Span | None:
        """The innermost open span of the node."""
        return self.cell or self.agent


@dataclass(slots=True, kw_only=True)
class _Run:
    """The open nodes of a run, and the time of its latest event."""

    nodes: dict[str, _Node] = field(default_factory=dict)
    latest: float = 0.0

    def node(self, name: str) -> _Node:
        return self.nodes.setdefault(name, _Node())

    def parent(self, name: str) -> _Node:
        """The node that called this one; an empty one for the root."""
        return self.nodes.get(name.rpartition(".")[0]) or _Node()


class Tracing:
    """A listener (`Orchestrator(on_event=...)`) that turns events into spans. One instance serves many concurrent runs.

    The root span is a child of the span that is current when the run starts.

    Args:
        tracer_provider: the destination of spans; None is OpenTelemetry's global provider.
        content: whether spans include prompts, replies, code and outputs, each cut at 8,000 characters. None reads the
            conventions' variable OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT (default: no).
        provider: the model API's name in the conventions.
        sent: returns the messages that a reply of a node answered, given the node and the reply's text; may be empty.

    Raises:
        ConfigError: OpenTelemetry is not installed (when this module is imported).
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        content: bool | None = None,
        *,
        provider: str = "openai",
        sent: SentMessages = lambda node, reply: (),
    ) -> None:
        self._tracer = get_tracer("rlm", version("rlm"), tracer_provider)
        self._content = os.environ.get(CAPTURE_VARIABLE, "").lower() in CAPTURE_VALUES if content is None else content
        self._provider = provider
        self._sent = sent
        self._runs: dict[str, _Run] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted() | RunResumed():
                self._begin(event)
            case RunFinished():
                self._finish(event)
            case _ if event.run_id in self._runs:
                run = self._runs[event.run_id]
                run.latest = event.ts
                self._within(run, run.node(event.node), event)

    def close(self) -> None:
        """End the spans of unfinished runs."""
        for run_id in list(self._runs):
            self._end_all(run_id, "interrupted")

    # Runs

    def _begin(self, event: RunStarted | RunResumed) -> None:
        self._end_all(event.run_id, "interrupted")
        run = self._runs[event.run_id] = _Run(latest=event.ts)
        root = run.node(event.node)
        match event:
            case RunStarted():
                root.model, root.prompt = next(iter(event.models.values()), ""), event.query
                more: Attributes = {"rlm.depth": event.depth, "rlm.context.bytes": event.context_bytes}
            case RunResumed():
                more = {"rlm.resumed.recorded": event.recorded, "rlm.resumed.in_flight": event.in_flight}
        root.agent = self._agent(run, root, event, more)

    def _finish(self, event: RunFinished) -> None:
        run = self._runs.get(event.run_id)
        if run is None:
            return
        run.latest = event.ts
        agent = run.node(event.node).agent
        if agent is not None and event.stop_reason is not None:
            agent.set_attribute("rlm.stop_reason", event.stop_reason)
        kind = None if event.error is None else event.error.partition(":")[0]
        self._end_all(event.run_id, kind, event.error)

    def _end_all(self, run_id: str, error: str | None, description: str | None = None) -> None:
        """End all open spans of a run, the newest node first."""
        run = self._runs.pop(run_id, None) or _Run()
        for name, node in reversed(run.nodes.items()):
            if node.cell is not None:
                _end(node.cell, run.latest, error, description)
            if node.agent is not None:
                node.agent.set_attributes(usage_attributes(node.used))
                _end(node.agent, run.latest, error, description)
            run.parent(name).used += node.used

    # Events

    def _within(self, run: _Run, node: _Node, event: Event) -> None:
        match event:
            case RLMStarted():
                node.model = event.model
                node.agent = node.agent or self._agent(run, node, event, {})
                node.agent.set_attributes(
                    {
                        "gen_ai.request.model": clean(event.model),
                        "rlm.level": event.level,
                        "rlm.depth": event.depth,
                        "rlm.sandbox": clean(event.sandbox),
                        "rlm.context.type": clean(event.context_type),
                        "rlm.context.size": event.context_size,
                    }
                )
            case TurnStarted():
                node.turn = event.turn
            case ModelReplied() | ModelFailed():
                self._chat(run, node, event)
            case CellStarted():
                node.cell = self._tool(node, event, "python", "extension", event.ts, cell=event.cell)
                self._add_content(node.cell, "gen_ai.tool.call.arguments", lambda: as_json({"code": cut(event.code)}))
            case CellFinished() if node.cell is not None:
                result = event.result
                self._add_content(
                    node.cell, "gen_ai.tool.call.result", lambda: cut(describe(result, limit=MAX_TEXT_CHARS))
                )
                _end(node.cell, event.ts, None if result.outcome == "ok" else result.outcome)
                node.cell = None
            case ToolUsed():
                span = self._tool(node, event, event.tool, "function", event.ts - event.seconds)
                self._add_content(span, "gen_ai.tool.call.arguments", lambda: cut(event.arguments))
                _end(span, event.ts, None if event.ok else "tool_error")
            case SubCallStarted():
                node.model, node.prompt = event.model, event.prompt
                if event.recursive:
                    node.agent = self._agent(run, node, event, {"rlm.batch": event.batch})
            case SubCallFinished():
                self._end_call(run, node, event)
            case RLMFinished() if node.agent is not None:
                node.agent.set_attribute("rlm.stop_reason", event.stop_reason)
                self._add_content(node.agent, "gen_ai.output.messages", lambda: output_messages(event.answer, "stop"))
            case SandboxLost():
                self._add_event(
                    run, event, "rlm.sandbox_lost", {"rlm.restored": event.restored, "rlm.reason": event.reason}
                )
            case Compacted():
                self._add_event(run, event, "rlm.compacted", {"rlm.messages": event.messages})
            case QuestionAsked():
                more = {} if event.context_bytes is None else {"rlm.context.bytes": event.context_bytes}
                self._add_event(run, event, "rlm.question_asked", more)
            case LimitsRaised():
                limits = ", ".join(f"{name}={value}" for name, value in event.limits.items())
                self._add_event(run, event, "rlm.limits_raised", {"rlm.limits": limits})
            case ReplayDiverged():
                self._add_event(run, event, "rlm.replay_diverged", {"rlm.call": event.ordinal})
            case AnswerReplayed() if node.agent is not None:
                node.agent.set_attribute("rlm.replayed", True)

    def _chat(self, run: _Run, node: _Node, event: ModelReplied | ModelFailed) -> None:
        usage = event.usage or Usage()
        node.used += usage
        node.has_chat = True
        model = node.model or event.model
        attributes = self._common("chat", event) | {"gen_ai.request.model": clean(model), "rlm.turn": node.turn}
        parent = run.parent(event.node).inner if event.role == "sub" else node.agent
        span = self._start(f"chat {clean(model)}", SpanKind.CLIENT, attributes, parent, event.ts - event.seconds)
        span.set_attributes(usage_attributes(usage))
        match event:
            case ModelReplied():
                span.set_attribute("gen_ai.response.model", clean(event.model))
                span.set_attribute("gen_ai.response.finish_reasons", [clean(event.finish_reason)])
                span.set_attribute("rlm.replayed", event.replayed)
                sent = self._sent(event.node, event.text) if self._content else ()
                if not sent and event.role == "sub" and node.prompt is not None:
                    sent = [Message(role="user", content=node.prompt)]
                if sent:
                    self._add_content(span, "gen_ai.input.messages", lambda: input_messages(sent))
                self._add_content(
                    span,
                    "gen_ai.output.messages",
                    lambda: output_messages(event.text, event.finish_reason, event.thinking),
                )
                _end(span, event.ts)
            case ModelFailed():
                _end(span, event.ts, "model_error", event.error)

    def _end_call(self, run: _Run, node: _Node, event: SubCallFinished) -> None:
        """End a call with its answer or the reason of its failure."""
        if node.agent is not None:
            node.agent.set_attributes(usage_attributes(node.used))
            _end(node.agent, event.ts, None if event.ok else "not_answered", None if event.ok else event.text)
        elif not node.has_chat:
            self._add_event(run, event, "rlm.call_refused", {"rlm.reason": event.text})
        run.parent(event.node).used += node.used
        del run.nodes[event.node]

    # Spans

    def _agent(self, run: _Run, node: _Node, event: Event, more: Attributes) -> Span:
        attributes = self._common("invoke_agent", event) | {
            "gen_ai.agent.name": "rlm",
            "gen_ai.agent.id": f"{event.run_id}/{clean(event.node)}",
            "gen_ai.agent.version": version("rlm"),
        }
        if node.model:
            attributes["gen_ai.request.model"] = clean(node.model)
        parent = run.parent(event.node).inner
        span = self._start("invoke_agent rlm", SpanKind.INTERNAL, attributes | dict(more), parent, event.ts)
        if node.prompt is not None:
            prompt = [Message(role="user", content=node.prompt)]
            self._add_content(span, "gen_ai.input.messages", lambda: input_messages(prompt))
        return span

    def _tool(
        self,
        node: _Node,
        event: Event,
        name: str,
        kind: Literal["extension", "function"],
        started: float,
        *,
        cell: int | None = None,
    ) -> Span:
        attributes = self._common("execute_tool", event) | {
            "gen_ai.tool.name": clean(name[:MAX_NAME_CHARS]),
            "gen_ai.tool.type": kind,
            "rlm.turn": node.turn,
        }
        if cell is not None:
            attributes |= {"gen_ai.tool.call.id": f"{clean(event.node)}/cell-{cell}", "rlm.cell": cell}
        parent = node.agent if cell is not None else node.inner
        return self._start(
            f"execute_tool {attributes['gen_ai.tool.name']}", SpanKind.INTERNAL, attributes, parent, started
        )

    def _common(self, operation: str, event: Event) -> dict[str, Value]:
        common: dict[str, Value] = {
            "gen_ai.operation.name": operation,
            "gen_ai.conversation.id": event.run_id,
            "rlm.run_id": event.run_id,
            "rlm.node": clean(event.node),
        }
        return common if operation == "execute_tool" else common | {"gen_ai.provider.name": self._provider}

    def _start(self, name: str, kind: SpanKind, attributes: Attributes, parent: Span | None, ts: float) -> Span:
        """Start a span. Without a parent, the current span is the parent."""
        context = None if parent is None else set_span_in_context(parent)
        return self._tracer.start_span(name, context, kind, attributes, start_time=_ns(ts))

    def _add_event(self, run: _Run, event: Event, name: str, attributes: Attributes) -> None:
        """Add an event to the innermost open span."""
        node = run.node(event.node)
        span = node.inner or run.parent(event.node).inner
        if span is not None:
            cleaned = {key: clean(value) if isinstance(value, str) else value for key, value in attributes.items()}
            span.add_event(name, {"rlm.node": clean(event.node), **cleaned}, timestamp=_ns(event.ts))

    def _add_content(self, span: Span, name: str, make: Callable[[], str]) -> None:
        """Add content, if enabled."""
        if self._content and span.is_recording():
            span.set_attribute(name, make())


def _end(span: Span, ts: float, error: str | None = None, description: str | None = None) -> None:
    if error is not None:
        span.set_attribute("error.type", clean(error))
        span.set_status(Status(StatusCode.ERROR, None if description is None else cut(description)))
    span.end(_ns(ts))


def _ns(ts: float) -> int:
    return int(ts * 1_000_000_000)
