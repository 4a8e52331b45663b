"""Only the host decides what a query of a cell may do."""

from collections.abc import Sequence

import pytest

from helpers.fakes import services
from rlm.config import Limits
from rlm.errors import ModelError, SandboxStartError
from rlm.events import Event, SubCallFinished, SubCallStarted
from rlm.loop.broker import Broker
from rlm.loop.task import RLMResult, RLMTask
from rlm.models.scripted import ScriptedModel
from rlm.sandbox.base import SandboxQuery
from rlm.sandbox.values import Value, encode
from rlm.types import Message, ModelReply, StopReason, Usage

pytestmark = pytest.mark.anyio

SUB = ScriptedModel(lambda messages: f"read {messages[-1].content}", name="sub")


def query(
    prompt: str = "p", *, context: Value | None = None, model: str | None = None, recurse: bool | None = None
) -> SandboxQuery:
    return SandboxQuery(call=1, batch=0, prompt=prompt, context=context, model=model, recurse=recurse)


def broker(
    depth: int,
    *,
    sub: ScriptedModel = SUB,
    tasks: list[RLMTask] | None = None,
    child_error: Exception | None = None,
    answered: RLMResult | None = None,
    seen: list[Event] | None = None,
    limits: Limits | None = None,
) -> Broker:
    shared = services(ScriptedModel([], name="root"), sub, seen=seen, limits=limits)

    async def child(task: RLMTask) -> RLMResult:
        if child_error is not None:
            raise child_error
        if tasks is not None:
            tasks.append(task)
        return answered or RLMResult(answer=f"rlm {task.node}", stop_reason="final", iterations=1)

    task = RLMTask(node="0.2", level=1, depth=depth, context=encode(""), query=None, model=shared.model_at(0))
    return Broker(
        task=task, sub_model=sub, by_name=shared.by_name, calls=shared.calls, child=child, events=shared.events
    )


async def test_depth_0_refuses_calls_with_a_reason() -> None:
    reply = await broker(0).answer(query())
    assert not reply.ok
    assert "No calls to models" in reply.text


async def test_depth_1_is_a_plain_call_that_sees_its_prompt_alone() -> None:
    assert (await broker(1).answer(query("hello"))).text == "read hello"
    assert (await broker(1).answer(query("hello", recurse=True))).text == "read hello"


async def test_deeper_calls_recurse_with_one_level_less() -> None:
    tasks: list[RLMTask] = []
    asked = broker(3, tasks=tasks)
    assert (await asked.answer(query("q", context=encode("text")))).text == "rlm 0.2.1"
    assert (await asked.answer(query("q"))).text == "rlm 0.2.2"
    assert [(task.level, task.depth, task.query) for task in tasks] == [(2, 2, "q"), (2, 2, "q")]
    assert b"".join(tasks[1].context.pieces()) == b"q"


async def test_a_call_may_ask_not_to_recurse() -> None:
    assert (await broker(2).answer(query("x", recurse=False))).text == "read x"


async def test_a_model_outside_the_run_is_refused_by_name() -> None:
    reply = await broker(1).answer(query(model="gpt-unknown"))
    assert not reply.ok
    assert "gpt-unknown" in reply.text
    assert "root, sub" in reply.text


async def test_an_invalid_name_of_any_length_is_refused_with_a_short_message() -> None:
    reply = await broker(1).answer(query(model="\0" * 100_000))
    assert not reply.ok
    assert len(reply.text) < 2_000


@pytest.mark.parametrize(
    ("depth", "limits", "context"),
    [
        pytest.param(1, Limits(max_lm_calls=1), None, id="calls"),
        pytest.param(1, Limits(max_tokens=10_000), None, id="tokens"),
        pytest.param(2, Limits(max_lm_calls=1), None, id="an RLM without calls"),
        pytest.param(1, None, encode("c"), id="a plain call with a context"),
    ],
)
async def test_rejected_calls_are_recorded_truncated(depth: int, limits: Limits | None, context: Value | None) -> None:
    """Refused queries are free: recorded whole, they could fill the disk."""
    seen: list[Event] = []
    asked = broker(depth, limits=limits, seen=seen)
    for _ in range(3):
        await asked.answer(query("long " * 100_000, context=context))
    prompts = [event.prompt for event in seen if isinstance(event, SubCallStarted)]
    assert len(prompts) == 3
    assert all(len(prompt) < 1_000 for prompt in prompts)
    assert asked._replay.journal.database.rows("SELECT coalesce(sum(length(content)), 0) FROM messages") == [(0,)]


async def test_a_failed_model_call_tells_the_cell_why() -> None:
    def fail(messages: Sequence[Message]) -> str:
        raise ModelError("the provider answered 500", status=500)

    reply = await broker(1, sub=ScriptedModel(fail, name="sub")).answer(query())
    assert reply.text == "This call failed: the provider answered 500"


async def test_a_child_whose_sandbox_does_not_start_costs_its_own_call_only() -> None:
    reply = await broker(2, child_error=SandboxStartError("no space")).answer(query())
    assert (reply.ok, reply.text) == (False, "This call failed: no space")


async def test_a_call_that_the_budget_refuses_tells_the_model_why() -> None:
    reply = await broker(1, limits=Limits(max_lm_calls=1)).answer(query())
    assert (reply.ok, reply.text) == (False, "This call was not made: the run's limit of 1 model calls is reached.")


async def test_a_reply_that_was_cut_off_says_so() -> None:
    def long(messages: Sequence[Message]) -> ModelReply:
        return ModelReply(text="half", usage=Usage(calls=1), model="sub", finish_reason="length")

    reply = await broker(1, sub=ScriptedModel(long, name="sub")).answer(query())
    assert reply.text == "half\n[This reply was cut off at the model's token limit.]"


async def test_every_call_emits_events_under_its_own_node() -> None:
    seen: list[Event] = []
    await broker(1, seen=seen).answer(query())
    calls = [event for event in seen if isinstance(event, SubCallStarted | SubCallFinished)]
    assert [(type(event), event.node, event.parent) for event in calls] == [
        (SubCallStarted, "0.2.1", "0.2"),
        (SubCallFinished, "0.2.1", "0.2"),
    ]


@pytest.mark.parametrize(
    ("stop_reason", "why"),
    [("max_iterations", "all its turns were used"), ("max_tokens", "the run's limit on tokens was reached")],
)
async def test_an_answer_of_a_stopped_child_says_so_and_an_empty_one_is_a_failure(
    stop_reason: StopReason, why: str
) -> None:
    partial = RLMResult(answer="half", stop_reason=stop_reason, iterations=3)
    reply = await broker(2, answered=partial).answer(query())
    assert reply.ok
    assert reply.text == f"half\n[This answer is what there was when the work on it was stopped: {why}.]"
    nothing = RLMResult(answer=" \n", stop_reason=stop_reason, iterations=3)
    reply = await broker(2, answered=nothing).answer(query())
    assert not reply.ok
    assert reply.text == f"This call failed: it was stopped before it had an answer: {why}."


async def test_a_child_may_give_an_empty_answer() -> None:
    reply = await broker(2, answered=RLMResult(answer="", stop_reason="final", iterations=1)).answer(query())
    assert (reply.ok, reply.text) == (True, "")
