"""A run is a tree of spans by the GenAI conventions, live or from its record, with content only on request."""

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from helpers.small_tree import small_tree
from rlm import ConfigError, ModelError, ScriptedModel
from rlm.events import (
    CellFinished,
    CellStarted,
    Compacted,
    Event,
    LimitsRaised,
    ModelFailed,
    QuestionAsked,
    ReplayDiverged,
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
from rlm.otel import Tracing
from rlm.otel.tracing import CAPTURE_VARIABLE
from rlm.trajectory.export.otlp import spans_of
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.run_reader import read_run_events
from rlm.types import CellResult, Message, Usage

pytestmark = pytest.mark.anyio

QUESTION = "Is it the root?"
TREE = """
invoke_agent rlm 0
  chat big 0
  execute_tool python 0
  chat big 0
  execute_tool python 0
    invoke_agent rlm 0.1
      chat small 0.1
      execute_tool python 0.1
        chat small 0.1.1
      chat small 0.1
  chat big 0
  execute_tool python 0
    chat small 0.2
  chat big 0
"""


class Traced:
    """A provider that keeps its spans."""

    def __init__(self) -> None:
        self.kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.kept))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.kept.get_finished_spans()


@pytest.fixture
def traced() -> Traced:
    return Traced()


def tree(spans: Sequence[ReadableSpan]) -> str:
    """The spans, each below its parent, by start time."""

    def lines(parent: int | None, depth: int) -> Iterator[str]:
        below = [span for span in spans if (span.parent.span_id if span.parent else None) == parent]
        for span in sorted(below, key=lambda span: span.start_time or 0):
            yield f"{'  ' * depth}{span.name} {attributes(span).get('rlm.node')}"
            yield from lines(span.context.span_id, depth + 1)

    return "\n" + "\n".join(lines(None, 0)) + "\n"


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def only(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    (span,) = (span for span in spans if span.name == name)
    return span


def traced_events(traced: Traced, *events: Event, content: bool = False) -> Sequence[ReadableSpan]:
    tracing = Tracing(traced.provider, content)
    for event in events:
        tracing(event)
    tracing.close()
    return traced.spans


def test_spans_are_nested_as_the_tree_of_the_run_is(traced: Traced, tmp_path: Path) -> None:
    small_tree(run_root=tmp_path, on_event=Tracing(traced.provider)).completion("the context", QUESTION)
    assert tree(traced.spans) == TREE


def test_spans_have_the_attributes_of_the_conventions(traced: Traced, tmp_path: Path) -> None:
    done = small_tree(run_root=tmp_path, on_event=Tracing(traced.provider)).completion("the context", QUESTION)
    root = next(span for span in traced.spans if span.parent is None)
    assert attributes(root) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "openai",
        "gen_ai.agent.name": "rlm",
        "gen_ai.agent.id": f"{done.run_id}/0",
        "gen_ai.agent.version": attributes(root)["gen_ai.agent.version"],
        "gen_ai.conversation.id": done.run_id,
        "gen_ai.request.model": "big",
        "gen_ai.usage.input_tokens": done.usage.input_tokens,
        "gen_ai.usage.output_tokens": done.usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "rlm.run_id": done.run_id,
        "rlm.node": "0",
        "rlm.level": 0,
        "rlm.depth": 2,
        "rlm.context.bytes": 11,
        "rlm.context.type": "str",
        "rlm.context.size": 11,
        "rlm.sandbox": "sandbox-1",
        "rlm.stop_reason": "final",
        "rlm.cost_usd": 0.0,
    }
    chat = next(span for span in traced.spans if span.name == "chat small")
    assert attributes(chat) | {"rlm.turn": 0} == attributes(chat) | {
        "gen_ai.operation.name": "chat",
        "gen_ai.response.model": "small",
        "gen_ai.response.finish_reasons": ("stop",),
        "rlm.replayed": False,
        "rlm.turn": 0,
    }
    assert chat.kind.name == "CLIENT"
    failed, *others = (span for span in traced.spans if span.name == "execute_tool python")
    assert attributes(failed)["error.type"] == "error"
    assert failed.status.status_code is StatusCode.ERROR
    assert not any("error.type" in attributes(span) for span in others)


def test_a_record_gives_the_spans_of_the_run_itself_with_their_times(traced: Traced, tmp_path: Path) -> None:
    done = small_tree(run_root=tmp_path, on_event=Tracing(traced.provider)).completion("the context", QUESTION)
    recorded = spans_of(read_run_events(done.run_dir), RunDetails())

    def shown(spans: Sequence[ReadableSpan]) -> list[object]:
        return [(span.name, span.start_time, span.end_time, attributes(span)) for span in spans]

    assert shown(recorded) == shown(traced.spans)
    assert tree(recorded) == TREE


@pytest.mark.parametrize("blocking", [True, False])
async def test_the_parent_is_the_span_that_is_current_where_the_run_is_started(
    blocking: bool, traced: Traced, tmp_path: Path
) -> None:
    orchestrator = small_tree(run_root=tmp_path, on_event=Tracing(traced.provider))
    with traced.provider.get_tracer("test").start_as_current_span("request"):
        if blocking:
            orchestrator.completion("the context", QUESTION)
        else:
            await orchestrator.acompletion("the context", QUESTION)
    request = only(traced.spans, "request")
    assert {span.context.trace_id for span in traced.spans} == {request.context.trace_id}
    root = next(
        span for span in traced.spans if attributes(span).get("rlm.node") == "0" and "rlm.level" in attributes(span)
    )
    assert root.parent is not None
    assert root.parent.span_id == request.context.span_id


def test_many_runs_at_once_have_a_trace_each(traced: Traced, tmp_path: Path) -> None:
    orchestrator = small_tree(run_root=tmp_path, on_event=Tracing(traced.provider))
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: orchestrator.completion("the context", QUESTION), range(8)))
    for each in done:
        spans = [span for span in traced.spans if attributes(span)["rlm.run_id"] == each.run_id]
        assert tree(spans) == TREE
        assert len({span.context.trace_id for span in spans}) == 1


def test_spans_contain_no_texts_of_a_run_by_default(traced: Traced, tmp_path: Path) -> None:
    def run(content: bool | None) -> str:
        traced.kept.clear()
        tracing = Tracing(traced.provider, content)
        small_tree(run_root=tmp_path, on_event=tracing).completion("the context", QUESTION)
        return json.dumps([(attributes(span), str(span.events), span.status.description) for span in traced.spans])

    texts = ["Is it the root?", "rlm of the tree", "<llm of the root>", "NameError", "before"]
    assert not any(text in run(None) for text in texts)
    assert all(text in run(True) for text in texts)


@pytest.mark.parametrize(
    ("value", "captured"), [("true", True), ("SPAN_ONLY", True), ("EVENT_ONLY", False), ("false", False), ("", False)]
)
def test_the_standard_variable_includes_content_unless_the_argument_overrides_it(
    value: str, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAPTURE_VARIABLE, value)
    start = RunStarted(query="q", depth=1, models={0: "m"}, context_bytes=3, run_id="r", ts=1.0)
    for content, included in ((None, captured), (not captured, not captured)):
        (span,) = spans_of([start], RunDetails(), content=content)
        assert ("gen_ai.input.messages" in attributes(span)) is included


def test_content_has_the_form_of_the_conventions(tmp_path: Path) -> None:
    done = small_tree(run_root=tmp_path).completion("the context", QUESTION)
    sent = {"0": [("FINAL(42)", [Message(role="system", content="Be.")])]}
    spans = spans_of(read_run_events(done.run_dir), RunDetails(sent=sent), content=True)
    chats = [attributes(span) for span in spans if span.name == "chat big"]
    assert json.loads(str(chats[-1]["gen_ai.input.messages"])) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be."}]}
    ]
    assert json.loads(str(chats[-1]["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "FINAL(42)"}], "finish_reason": "stop"}
    ]
    cell = next(attributes(span) for span in spans if span.name == "execute_tool python")
    assert json.loads(str(cell["gen_ai.tool.call.arguments"])) == {"code": "x"}


async def test_a_run_that_fails_is_cancelled_or_breaks_off_ends_all_its_spans_with_the_reason(
    traced: Traced, tmp_path: Path
) -> None:
    def fails(messages: Sequence[Message]) -> str:
        raise ModelError("no such model")

    tracing = Tracing(traced.provider)
    with pytest.raises(ModelError):
        await small_tree(run_root=tmp_path, model=ScriptedModel(fails), on_event=tracing).acompletion("c", QUESTION)

    def cancel(messages: Sequence[Message]) -> str:
        scope.cancel()
        return "too late"

    with anyio.CancelScope() as scope:
        await small_tree(run_root=tmp_path, model=ScriptedModel(cancel), on_event=tracing).acompletion("c", QUESTION)
    tracing(RunStarted(query="q", depth=1, models={0: "m"}, context_bytes=3, run_id="r", ts=1.0))
    tracing.close()
    ended = [attributes(span).get("error.type") for span in traced.spans if span.name == "invoke_agent rlm"]
    assert ended == ["ModelError", "cancelled", "interrupted"]
    assert only(traced.spans, "chat scripted").status.description == "no such model"


def test_host_functions_are_spans_and_other_events_are_span_events(traced: Traced) -> None:
    ids: dict[str, Any] = {"run_id": "r", "ts": 5.0}
    spans = traced_events(
        traced,
        RunStarted(query="q", depth=1, models={0: "m"}, context_bytes=3, **ids),
        RLMStarted(level=0, depth=1, model="m", sandbox="s", context_type="str", context_size=3, **ids),
        TurnStarted(turn=1, of=3, **ids),
        ReplayDiverged(ordinal=1, **ids),
        ModelFailed(role="root", model="m", error="503", usage=Usage(calls=1, input_tokens=7), seconds=2.0, **ids),
        CellStarted(cell=1, code="f()", **ids),
        ToolUsed(tool="f", arguments="()", ok=False, seconds=1.5, **ids),
        SubCallStarted(node="0.1", prompt="p", model="m", recursive=False, batch=0, **ids),
        SubCallFinished(node="0.1", ok=False, text="no money", seconds=0.0, **ids),
        SandboxLost(sandbox="a", reason="gone", replacement="b", **ids),
        CellFinished(cell=1, result=CellResult(outcome="timeout"), **ids),
        Compacted(messages=3, summary="short", **ids),
        LimitsRaised(limits={"max_tokens": 9.0}, **ids),
        QuestionAsked(query="and?", context_bytes=7, **ids),
        RunFinished(stop_reason="max_seconds", usage=Usage(), seconds=1.0, **ids),
    )
    chat, function, cell, root = (
        only(spans, name) for name in ("chat m", "execute_tool f", "execute_tool python", "invoke_agent rlm")
    )
    assert (chat.start_time, chat.end_time) == (3 * 10**9, 5 * 10**9)
    assert (attributes(chat)["error.type"], chat.status.description) == ("model_error", "503")
    assert function.parent is not None
    assert function.parent.span_id == cell.context.span_id
    assert (attributes(function)["error.type"], attributes(cell)["error.type"]) == ("tool_error", "timeout")
    assert [event.name for event in cell.events] == ["rlm.call_refused", "rlm.sandbox_lost"]
    assert [event.name for event in root.events] == [
        "rlm.replay_diverged",
        "rlm.compacted",
        "rlm.limits_raised",
        "rlm.question_asked",
    ]
    assert (attributes(root)["rlm.stop_reason"], attributes(root)["gen_ai.usage.input_tokens"]) == ("max_seconds", 7)


def test_a_run_that_was_resumed_has_a_span_for_each_attempt(traced: Traced) -> None:
    first, second = traced_events(
        traced,
        RunStarted(query="q", depth=1, models={0: "m"}, context_bytes=3, run_id="r", ts=1.0),
        RunResumed(recorded=3, in_flight=1, run_id="r", ts=9.0),
        RunFinished(stop_reason="final", usage=Usage(), seconds=1.0, run_id="r", ts=10.0),
    )
    assert (first.end_time, attributes(first)["error.type"]) == (10**9, "interrupted")
    assert (second.start_time, attributes(second)["rlm.resumed.recorded"]) == (9 * 10**9, 3)
    assert "error.type" not in attributes(second)


def test_without_the_extra_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("rlm.otel")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlm\[otel\]'"):
        importlib.import_module("rlm.otel")
