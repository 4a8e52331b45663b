"""One RLM: turns, final answers, limits, lost sandboxes."""

from collections.abc import Sequence

import anyio
import pytest

from helpers.fakes import services
from rlm.config import Limits
from rlm.errors import EmptyReply, ModelError, SandboxDied
from rlm.events import CellFinished, Event, RLMStarted, SandboxLost, TurnStarted
from rlm.loop.rlm import rlm_loop
from rlm.loop.services import Services
from rlm.loop.task import RLMResult, RLMTask
from rlm.models.scripted import ScriptedModel
from rlm.sandbox.base import Answer, LoadedValue, SandboxQuery
from rlm.sandbox.values import Value, encode
from rlm.testing import FakeSandbox, FakeSandboxes, echo_cell
from rlm.types import CellResult, Message, ModelReply, StopPoint, Usage

pytestmark = pytest.mark.anyio


async def run(shared: Services, *, depth: int = 0) -> RLMResult:
    task = RLMTask(node="0", level=0, depth=depth, context=encode("the text"), query="why?", model=shared.model_at(0))
    return await rlm_loop(task, shared)


def cell(code: str) -> str:
    return f"```repl\n{code}\n```"


async def test_the_answer_of_a_cell_ends_the_loop() -> None:
    seen: list[Event] = []
    answered = await run(services(ScriptedModel([cell("look"), cell("FINAL: 42")]), seen=seen))
    assert answered == RLMResult(answer="42", stop_reason="final", iterations=2)
    assert [event.turn for event in seen if isinstance(event, TurnStarted)] == [1, 2]


async def test_the_model_reads_what_its_cell_printed() -> None:
    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return cell("print") if len(messages) == 2 else "FINAL(done)"

    await run(services(ScriptedModel(root)))
    assert "why?" in received[0]
    assert "`context` is a str of 8 characters." in received[0]
    assert received[1].startswith("Output:\n```\nprint\n```\n\nThis is turn 2 of 30.")


async def test_a_reply_cut_off_before_its_first_word_is_reported_to_the_model_and_is_no_answer() -> None:
    received: list[Sequence[Message]] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages)
        if len(received) == 1:
            raise EmptyReply("it has only reasoned", finish_reason="length", usage=Usage(calls=1, output_tokens=2_000))
        return "FINAL(sure)"

    answered = await run(services(ScriptedModel(root)))
    assert answered == RLMResult(answer="sure", stop_reason="final", iterations=2)
    assert [message.role for message in received[1]] == ["system", "user"]
    assert "Your reply was cut off at its token limit" in received[1][1].content


async def test_a_model_that_only_reasons_ends_without_an_answer() -> None:
    def root(messages: Sequence[Message]) -> str:
        raise EmptyReply("it has only reasoned", finish_reason="length", usage=Usage(calls=1, output_tokens=2_000))

    answered = await run(services(ScriptedModel(root), limits=Limits(max_consecutive_errors=3)))
    assert answered == RLMResult(answer="", stop_reason="max_consecutive_errors", iterations=3)


async def test_a_text_answer_beside_code_with_unseen_output_is_not_taken() -> None:
    replies = [cell("look") + "\nFINAL(a guess)", "FINAL(sure)"]
    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return replies[(len(messages) - 2) // 2]

    assert (await run(services(ScriptedModel(root)))).answer == "sure"
    assert "was not taken" in received[1]


async def test_a_final_variable_is_read_from_the_sandbox_after_the_cells_of_its_turn() -> None:
    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        ran.append(code)
        return CellResult(outcome="ok", answer="from the variable" if code.startswith("FINAL_VAR") else None)

    ran: list[str] = []
    model = ScriptedModel([cell("result = 1") + "\nFINAL_VAR(result)"])
    answered = await run(services(model, sandbox_factory=FakeSandboxes(behaviour)))
    assert answered.answer == "from the variable"
    assert ran == ["result = 1", "FINAL_VAR('result')"]


async def test_an_undefined_final_variable_is_an_error_that_the_model_reads() -> None:
    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="error", error="NameError: there is no variable 'gone'")

    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return "FINAL_VAR(gone)" if len(messages) == 2 else "FINAL(then this)"

    assert (await run(services(ScriptedModel(root), sandbox_factory=FakeSandboxes(behaviour)))).answer == "then this"
    assert "NameError: there is no variable 'gone'" in received[1]


async def test_a_reply_without_code_or_answer_gets_instructions() -> None:
    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return "Let me think." if len(messages) == 2 else "FINAL(done)"

    await run(services(ScriptedModel(root)))
    assert "held nothing that runs" in received[1]


async def test_when_the_turns_are_used_the_model_answers_with_what_it_has() -> None:
    def root(messages: Sequence[Message]) -> str:
        return "FINAL(best guess)" if "You have to stop" in messages[-1].content else cell("look")

    answered = await run(services(ScriptedModel(root), limits=Limits(max_iterations=3)))
    assert answered == RLMResult(answer="best guess", stop_reason="max_iterations", iterations=3)


async def test_a_last_reply_without_the_form_of_an_answer_is_itself_the_answer() -> None:
    model = ScriptedModel(lambda messages: "It is probably 7." if "have to stop" in messages[-1].content else cell("x"))
    answered = await run(services(model, limits=Limits(max_iterations=1)))
    assert answered.answer == "It is probably 7."


async def test_the_last_turn_is_paid_from_the_reserve() -> None:
    model = ScriptedModel(lambda messages: "FINAL(x)" if "have to stop" in messages[-1].content else cell("look"))
    shared = services(model, limits=Limits(max_lm_calls=4))
    answered = await run(shared)
    assert (answered.answer, answered.stop_reason) == ("x", "max_lm_calls")
    assert shared.calls.accounting.budget.used.calls == 4


async def test_turns_that_only_fail_end_the_work() -> None:
    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        return CellResult(outcome="error", error="ZeroDivisionError: division by zero")

    model = ScriptedModel(lambda messages: "FINAL(no)" if "have to stop" in messages[-1].content else cell("1/0"))
    shared = services(model, sandbox_factory=FakeSandboxes(behaviour), limits=Limits(max_consecutive_errors=2))
    assert await run(shared) == RLMResult(answer="no", stop_reason="max_consecutive_errors", iterations=2)


async def test_at_the_deadline_the_model_answers_with_what_it_has() -> None:
    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        await anyio.sleep_forever()
        raise AssertionError

    model = ScriptedModel(lambda messages: "FINAL(late)" if "have to stop" in messages[-1].content else cell("wait"))
    shared = services(model, sandbox_factory=FakeSandboxes(behaviour), seconds=0.3)
    stop = StopPoint(reason="max_seconds", replies=1, cells=0, requests=1, queries=0)  # where a replay stops, too
    assert await run(shared) == RLMResult(answer="late", stop_reason="max_seconds", iterations=1, stop=stop)


async def test_a_cell_that_loses_its_sandbox_twice_is_reported_to_the_model() -> None:
    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        if code == "die":
            raise SandboxDied("it was killed")
        return await echo_cell(code, answer)

    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return cell("die") if len(messages) == 2 else "FINAL(alive)"

    seen: list[Event] = []
    sandboxes = FakeSandboxes(behaviour)
    answered = await run(services(ScriptedModel(root), sandbox_factory=sandboxes, seen=seen))
    assert answered.answer == "alive"
    assert "twice (it was killed), and replaced by a new one: all variables are as they were before" in received[1]
    kinds = [type(event) for event in seen if isinstance(event, RLMStarted | SandboxLost)]
    assert kinds == [RLMStarted, SandboxLost, SandboxLost]
    assert sandboxes.alive == 0


async def test_a_sandbox_that_is_lost_repeatedly_ends_the_rlm_with_its_error() -> None:
    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        raise SandboxDied("it was killed")

    sandboxes = FakeSandboxes(behaviour)
    with pytest.raises(SandboxDied, match="it was killed"):
        await run(services(ScriptedModel(lambda messages: cell("die")), sandbox_factory=sandboxes))
    assert len(sandboxes.started) == 4
    assert sandboxes.alive == 0


async def test_a_sandbox_lost_before_it_has_the_context_is_started_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the engine restarts while an RLM starts."""
    losses = 1
    load = FakeSandbox.load

    async def dies(sandbox: FakeSandbox, name: str, value: Value) -> LoadedValue:
        nonlocal losses
        losses -= 1
        if losses >= 0:
            raise SandboxDied("the engine was restarted")
        return await load(sandbox, name, value)

    monkeypatch.setattr(FakeSandbox, "load", dies)
    sandboxes = FakeSandboxes()
    model = ScriptedModel([cell("FINAL: 42")])
    assert (await run(services(model, sandbox_factory=sandboxes))).answer == "42"
    losses = 2
    with pytest.raises(SandboxDied, match="restarted"):
        await run(services(model, sandbox_factory=sandboxes))
    assert (len(sandboxes.started), sandboxes.alive) == (4, 0)


async def test_a_reply_cut_off_in_a_block_does_not_run_half_a_cell() -> None:
    def root(messages: Sequence[Message]) -> ModelReply:
        cut = len(messages) == 2
        text = "```repl\nprint(1)\n```\n```repl\nprint(con" if cut else "FINAL(done)"
        return ModelReply(text=text, usage=Usage(calls=1), model="m", finish_reason="length" if cut else "stop")

    seen: list[Event] = []
    await run(services(ScriptedModel(root), seen=seen))
    assert [event.result.stdout for event in seen if isinstance(event, CellFinished)] == ["print(1)"]


async def test_an_error_of_the_root_model_reaches_the_caller_and_leaves_no_sandbox() -> None:
    def root(messages: Sequence[Message]) -> str:
        raise ModelError("the provider said no", status=400)

    sandboxes = FakeSandboxes()
    with pytest.raises(ModelError, match="said no"):
        await run(services(ScriptedModel(root), sandbox_factory=sandboxes))
    assert sandboxes.alive == 0


async def test_a_sub_call_with_depth_left_is_an_rlm_in_its_own_sandbox() -> None:
    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        if code != "ask":
            return await echo_cell(code, answer)
        assert answer is not None
        query = SandboxQuery(call=1, batch=0, prompt="what?", context=encode("part"), model=None, recurse=None)
        reply = await answer(query)
        return CellResult(outcome="ok", answer=f"child said {reply.text}")

    def root(messages: Sequence[Message]) -> str:
        return cell("ask")

    def child(messages: Sequence[Message]) -> str:
        assert "what?" in messages[1].content
        return "FINAL(blue)"

    sandboxes = FakeSandboxes(behaviour)
    shared = services(ScriptedModel(root, name="root"), ScriptedModel(child, name="child"), sandbox_factory=sandboxes)
    answered = await run(shared, depth=2)
    assert answered.answer == "child said blue"
    assert sandboxes.started == [("0", 2), ("0.1", 1)]
    assert shared.calls.accounting.by_node.keys() == {"0", "0.1"}


class Interpreter:
    """Sandboxes with a small language: `set x` and `ask x` change variables, `show` prints them, `die` kills the sandbox."""

    def __init__(self, *, deaths: int, forgets: bool = False) -> None:
        self.variables: list[str] = []
        self.deaths = deaths
        self.forgets = forgets

    async def __call__(self, code: str, answer: Answer | None) -> CellResult:
        for word in code.split(", "):
            match word.split():
                case ["set", name]:
                    self.variables.append(name)
                case ["ask", name]:
                    assert answer is not None
                    asked = name + "!" * self.forgets
                    query = SandboxQuery(call=1, batch=0, prompt=asked, context=None, model=None, recurse=None)
                    self.variables.append((await answer(query)).text)
                case ["die"] if self.deaths:
                    self.deaths -= 1
                    self.variables = []
                    raise SandboxDied("it was killed")
        return CellResult(outcome="ok", stdout=" ".join(self.variables))


async def rebuilt(cells: list[str], interpreter: Interpreter) -> tuple[str, list[str], list[Event]]:
    """The output of the last cell, the prompts of the sub-model, and the events."""
    asked: list[str] = []

    def sub(messages: Sequence[Message]) -> str:
        asked.append(messages[-1].content)
        return f"<{messages[-1].content}>"

    seen: list[Event] = []
    root = ScriptedModel([*map(cell, cells), "FINAL(done)"], name="root")
    shared = services(root, ScriptedModel(sub, name="sub"), sandbox_factory=FakeSandboxes(interpreter), seen=seen)
    await run(shared, depth=1)
    last = [event for event in seen if isinstance(event, CellFinished)][-1].result
    return last.stdout or last.error, asked, seen


async def test_a_lost_sandbox_gets_its_variables_back_and_the_cell_runs_again_without_paying_twice() -> None:
    cells = ["set a, ask b", "ask c", "ask d, die, ask e"]
    shown, asked, seen = await rebuilt(cells, Interpreter(deaths=1))
    assert shown == "a <b> <c> <d> <e>"
    assert asked == ["b", "c", "d", "e"]
    assert [event.restored for event in seen if isinstance(event, SandboxLost)] == [True]
    assert [event.cell for event in seen if isinstance(event, CellFinished)] == [1, 2, 3]


async def test_a_cell_that_dies_twice_is_reported_and_earlier_variables_stay() -> None:
    shown, asked, _ = await rebuilt(["set a, ask b", "set x, die", "set c"], Interpreter(deaths=2))
    assert (shown, asked) == ("a <b> c", ["b"])


async def test_cells_that_ask_differently_when_repeated_keep_the_context_and_pay_nothing() -> None:
    class Changes(Interpreter):
        async def __call__(self, code: str, answer: Answer | None) -> CellResult:
            self.forgets = self.deaths == 0
            return await super().__call__(code, answer)

    shown, asked, seen = await rebuilt(["set a, ask b", "die"], Changes(deaths=1))
    assert "replaced by a new one: only `context` is kept" in shown
    assert asked == ["b"]
    assert [event.restored for event in seen if isinstance(event, SandboxLost)] == [False]


async def ask(
    *replies: str, cells: dict[str, str] | None = None, limits: Limits | None = None
) -> tuple[RLMResult, list[str]]:
    """The result of an RLM with these replies, and the messages it got. `cells` maps code to the answers it gives."""
    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return replies[min(len(received), len(replies)) - 1]

    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        if code.startswith("FINAL") and code not in (cells or {}):
            return CellResult(outcome="error", error="NameError")
        return CellResult(outcome="ok", answer=(cells or {}).get(code))

    shared = services(ScriptedModel(root), sandbox_factory=FakeSandboxes(behaviour), limits=limits or Limits())
    return await run(shared), received


async def test_an_answer_that_names_an_assigned_variable_is_its_value() -> None:
    result, _ = await ask(cell("total = 42"), "FINAL(total)", cells={"FINAL_VAR('total')": "42"})
    assert result.answer == "42"


async def test_an_answer_that_happens_to_be_an_assigned_name_without_a_value_is_text() -> None:
    result, received = await ask(cell("f(Paris=1)"), "FINAL(Paris)")
    assert (result.answer, result.iterations) == ("Paris", 3)
    assert "NameError" in received[2]


async def test_an_answer_that_names_a_variable_without_a_value_is_an_error_that_the_model_reads() -> None:
    result, received = await ask(cell("count = 1/0"), "FINAL(count)", "FINAL(42)")
    assert (result.answer, result.iterations) == ("42", 3)
    assert "NameError" in received[2]
    assert "looks like code" not in received[2]


async def test_a_name_that_is_assigned_again_is_asked_about_again() -> None:
    replies = [cell("count = 1/0"), "FINAL(count)", cell("count = 2/0"), "FINAL(count)", "FINAL(42)"]
    result, received = await ask(*replies)
    assert (result.answer, result.iterations) == ("42", 5)
    assert "NameError" in received[4]


async def test_the_name_of_a_variable_without_a_value_is_text_in_the_last_turn() -> None:
    result, _ = await ask(cell("count = 1/0"), "FINAL(count)", limits=Limits(max_iterations=1))
    assert result.answer == "count"


@pytest.mark.parametrize(
    "reply",
    ['FINAL(f"It is {total}")', "FINAL(len(context))", "FINAL_VAR(totals[0])", "FINAL(total[0])"],
)
async def test_an_answer_that_looks_like_code_is_asked_about(reply: str) -> None:
    result, received = await ask(cell("total = [42]"), reply, "FINAL(42)")
    assert (result.answer, result.iterations) == ("42", 3)
    assert "looks like code" in received[2]


async def test_text_in_quotes_is_an_answer_even_if_it_looks_like_code() -> None:
    result, _ = await ask('FINAL("len(context)")')
    assert result.answer == "len(context)"


async def test_a_call_of_something_unknown_is_text() -> None:
    result, _ = await ask("FINAL(Fe(OH))")
    assert result.answer == "Fe(OH)"


@pytest.mark.parametrize("reply", ["FINAL(the answer)", "FINAL(<your answer>)", "FINAL(value)", "FINAL()"])
async def test_a_placeholder_is_no_answer(reply: str) -> None:
    result, received = await ask(reply, "FINAL(42)")
    assert result.answer == "42"
    assert "No answer was taken" in received[1]


async def test_code_in_a_last_answer_is_evaluated_because_nobody_can_be_asked() -> None:
    code = 'FINAL(f"It is {total}")'
    last = Limits(max_iterations=1)
    result, _ = await ask(cell("total = 42"), code, cells={code: "It is 42"}, limits=last)
    assert result == RLMResult(answer="It is 42", stop_reason="max_iterations", iterations=1)


async def test_a_statement_in_the_last_numbered_turn_is_the_answer() -> None:
    result, received = await ask(cell("look"), "The number is 7336346.", limits=Limits(max_iterations=2))
    assert result == RLMResult(answer="The number is 7336346.", stop_reason="final", iterations=2)
    assert len(received) == 2


async def test_a_plan_in_the_last_numbered_turn_is_no_answer() -> None:
    result, received = await ask("I will count.", "FINAL(42)", limits=Limits(max_iterations=1))
    assert result == RLMResult(answer="42", stop_reason="max_iterations", iterations=1)
    assert len(received) == 2


async def test_a_last_reply_that_is_all_code_gives_what_it_printed() -> None:
    received: list[str] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages[-1].content)
        return cell("print 77")

    result = await run(services(ScriptedModel(root), limits=Limits(max_iterations=1)))
    assert result.answer == "print 77"  # the fake sandbox prints its code


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("print(context[:100])", "outside a block marked ```repl"),
        ("import re\nFINAL(len(context))", "outside a block marked ```repl"),
        ('<tool_call>\n{"name": "search", "arguments": {}}\n</tool_call>\nFINAL(1)', "there are no tools here"),
        ("Look:\n    ```repl\n    x\n    ```\nFINAL(len(context))", "could not be read with certainty"),
        ("FINAL(the count) will come last.", "part of a plan"),
    ],
)
async def test_a_reply_that_cannot_be_read_with_certainty_gets_the_form_to_use(reply: str, words: str) -> None:
    result, received = await ask(reply, "FINAL(42)")
    assert result.answer == "42"
    assert words in received[1]


async def test_thinking_neither_runs_nor_answers_nor_is_sent_again() -> None:
    received: list[Sequence[Message]] = []

    def root(messages: Sequence[Message]) -> str:
        received.append(messages)
        draft = "<think>\nFINAL(draft)\n```repl\ndraft\n```\n</think>\n"
        return draft + (cell("look") if len(received) == 1 else "FINAL(sure)")

    result = await run(services(ScriptedModel(root)))
    assert result == RLMResult(answer="sure", stop_reason="final", iterations=2)
    assert received[1][2].content == cell("look")


@pytest.mark.parametrize("reply", ["FINAL(`total`)", "FINAL(**total**)", "FINAL($total)", "FINAL(return total)"])
async def test_an_answer_may_name_its_variable_in_decoration(reply: str) -> None:
    result, _ = await ask(cell("total = 42"), reply, cells={"FINAL_VAR('total')": "42"})
    assert result.answer == "42"


@pytest.mark.parametrize("reply", ["FINAL(the total is {total})", "FINAL(cost: $total)"])
async def test_an_answer_with_a_place_for_a_variable_is_asked_about(reply: str) -> None:
    result, received = await ask(cell("total = 42"), reply, "FINAL(42)")
    assert (result.answer, result.iterations) == ("42", 3)
    assert "looks like code" in received[2]


@pytest.mark.parametrize(
    "reply", ["FINAL_VAR(nope)", "FINAL(the answer)", '<tool_call>\n{"name": "search"}\n</tool_call>']
)
async def test_a_last_reply_that_says_nothing_leaves_what_was_printed_last_as_the_answer(reply: str) -> None:
    async def behaviour(code: str, answer: Answer | None) -> CellResult:
        if code.startswith("FINAL"):
            return CellResult(outcome="error", error="NameError")
        return CellResult(outcome="ok", stdout="it is 77\n")

    def root(messages: Sequence[Message]) -> str:
        return reply if "have to stop" in messages[-1].content else cell("look")

    shared = services(ScriptedModel(root), sandbox_factory=FakeSandboxes(behaviour), limits=Limits(max_iterations=1))
    assert (await run(shared)).answer == "it is 77"
