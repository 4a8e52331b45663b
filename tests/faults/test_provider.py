"""Whole runs with a provider that misbehaves: transient faults are retried, permanent ones reported."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count as numbered
from pathlib import Path
from typing import Any, Final

import pytest

from helpers.measured import Record, count
from rlm import Limits, ModelError, OpenAIModel, Orchestrator, Price
from rlm.testing import FakeProvider, Fault, Reply

pytestmark = [pytest.mark.anyio, pytest.mark.serial]  # attempts with a time limit are counted

Response = str | Reply | Fault

ATTEMPT_SECONDS: Final = 0.4
PRICES: Final = {name: Price(input=1.0, output=1.0) for name in ("root", "child", "leaf")}
GOOD: Final = b'{"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "42"}}]}'

# Transient: the same request is sent again.
TRANSIENT: Final[Mapping[str, tuple[Fault, str]]] = {
    "429": (
        Fault(status=429, headers={"retry-after": "0.7"}, body={"error": "slow down"}),
        "answered 429 .*: slow down",
    ),
    "500": (Fault(status=500, body=b"<html>oops"), "answered 500"),
    "503": (Fault(status=503, headers={"retry-after-ms": "10"}), "answered 503"),
    "silent": (Fault(sent="nothing", then="hang"), "no complete response within 0.4 s"),
    "headers": (Fault(sent="headers", body=GOOD, then="hang"), "no complete response within 0.4 s"),
    "blanks": (Fault(body=b" ", then="trickle"), "no complete response within 0.4 s"),
    "dropped": (Fault(sent="nothing", then="drop"), "closed the connection"),
    "truncated": (Fault(sent="half", body=GOOD, then="drop"), "closed the connection"),
    "no choices": (Fault(headers={"retry-after-ms": "10"}, body={"choices": []}), "sent no choices"),
    "an error of a server behind it": (
        Fault(headers={"retry-after-ms": "10"}, body={"error": {"code": 502, "message": "bad gateway"}}),
        "instead of a reply .*: bad gateway",
    ),
    "half a stream": (
        Fault(body=b'data: {"choices": [{"delta": {"content": "4"}}]}\n\n'),
        "broke off its event stream",
    ),
}
# Permanent: another attempt would be paid again, or get the same answer.
PERMANENT: Final[Mapping[str, tuple[Fault | Reply, str]]] = {
    "no JSON": (Fault(body=b'{"choices": ['), "sent invalid JSON"),
    "no object": (Fault(body=["42"]), "not a chat completion"),
    "an error inside": (Fault(body={"error": {"message": "overloaded"}}), "instead of a reply: overloaded"),
    "filtered": (Reply(text="4", finish_reason="content_filter"), "its content filter blocked it"),
    "empty": (Reply(text=""), "sent an empty reply"),
    "blank": (Reply(text=" \n"), "sent an empty reply"),
    "only reasoned": (Reply(text="", finish_reason="length", output_tokens=100), "output token limit was reached"),
    "refused": (Reply(text=None, refusal="I will not."), "the model's refusal: I will not."),
    "400": (Fault(status=400, body={"error": {"message": "bad field"}}), "answered 400 .*: bad field"),
}
EMPTY: Final = {"filtered", "empty", "blank", "only reasoned", "refused"}  # a turn of an RLM's own model
BILLED: Final = [name for name, (response, _) in PERMANENT.items() if isinstance(response, Reply)]

ASK_FOR_ALL: Final = """
import json
from concurrent.futures import ThreadPoolExecutor
names = {names!r}
def alone(name):
    try:
        return [True, llm_query(name)]
    except LLMError as error:
        return [False, str(error)]
with ThreadPoolExecutor(len(names)) as threads:
    queries = list(threads.map(alone, names))
slots = [[bool(text), text] for text in llm_batch(names)]
FINAL(json.dumps([queries, slots]))
"""


def model(name: str, server: FakeProvider, *, max_retries: int = 1, rate_limit_seconds: float = 600.0) -> OpenAIModel:
    return OpenAIModel(
        name,
        base_url=server.base_url,
        timeout=ATTEMPT_SECONDS,
        max_retries=max_retries,
        rate_limit_seconds=rate_limit_seconds,
    )


def fenced(cell: str) -> str:
    return f"```repl\n{cell}\n```"


async def test_a_failed_sub_call_is_explained_to_the_model_and_affects_no_other_answer(
    tmp_path: Path, record_property: Record
) -> None:
    faults = {**TRANSIENT, **PERMANENT}
    names = [name for fault in faults for name in (fault, f"good {fault}")]

    def plays(messages: Sequence[Mapping[str, Any]], name: str) -> Response:
        prompt = messages[-1]["content"]
        if name == "root":
            return fenced(ASK_FOR_ALL.format(names=names))
        return faults[prompt][0] if prompt in faults else f"<{prompt}>"

    async with FakeProvider(plays) as server:
        done = await Orchestrator(
            model=model("root", server),
            sub_model=model("leaf", server, rate_limit_seconds=0.0),  # else 429 is retried until it passes
            run_root=tmp_path,
            prices=PRICES,
        ).acompletion("text", "go")
    for answers in json.loads(done.answer):
        for name, (ok, text) in zip(names, answers, strict=True):
            if name in faults:
                assert not ok
                assert re.search(faults[name][1], text), text
            else:
                assert (ok, text) == (True, f"<{name}>")
    asked = Counter(request.messages[-1]["content"] for request in server.requests)
    twice = TRANSIENT.keys() - {"429"}
    assert {name: asked[name] for name in names} == {name: 4 if name in twice else 2 for name in names}
    # The run reports what the provider counted, including unusable replies.
    assert done.usage.calls == 1 + 2 * len(faults) + 2 * len(BILLED)
    assert (done.usage.input_tokens, done.usage.output_tokens) == (server.input_tokens, server.output_tokens)
    assert done.usage.cost_usd == pytest.approx(done.usage.total_tokens / 1e6)
    count(record_property, faults=sum(asked[name] for name in faults))


@pytest.mark.long
async def test_passing_faults_of_the_root_model_are_retried_without_effect(
    tmp_path: Path, record_property: Record
) -> None:
    """Each turn first meets another fault."""
    faults = [fault for fault, _ in TRANSIENT.values()]
    numbers = numbered()

    def plays(messages: Sequence[Mapping[str, Any]], name: str) -> Response:
        number = next(numbers)
        if number % 2 == 0:
            return faults[number // 2]
        return fenced(f"print({number})") if number // 2 < len(faults) - 1 else "FINAL(through)"

    async with FakeProvider(plays) as server:
        done = await Orchestrator(model=model("root", server), run_root=tmp_path).acompletion("text", "go")
    assert (done.answer, done.stop_reason, done.iterations) == ("through", "final", len(faults))
    assert done.usage.calls == len(server.requests) / 2 == len(faults)
    assert (done.usage.input_tokens, done.usage.output_tokens) == (server.input_tokens, server.output_tokens)
    count(record_property, faults=len(faults))


async def test_a_persistent_fault_of_the_root_model_ends_the_run_with_one_sentence_and_it_can_be_resumed(
    tmp_path: Path, record_property: Record
) -> None:
    """Each turn meets another fault, and the next resume repeats it."""
    faults = [
        *(fault for name, fault in PERMANENT.items() if name not in EMPTY),
        TRANSIENT["503"],
        TRANSIENT["truncated"],
    ]
    met: set[int] = set()

    def plays(messages: Sequence[Mapping[str, Any]], name: str) -> Response:
        if name == "leaf":
            return "a reply"
        turn = sum(message["role"] == "assistant" for message in messages)
        if turn == len(faults):
            return "FINAL(through)"
        if turn not in met:
            met.add(turn)
            response: Response = faults[turn][0]
            return response
        return fenced(f"print(llm_query('{turn}'))")

    async with FakeProvider(plays) as server:
        orchestrator = Orchestrator(
            model=model("root", server, max_retries=0),
            sub_model=model("leaf", server),
            run_root=tmp_path,
            prices=PRICES,
        )
        with pytest.raises(ModelError, match=faults[0][1]):
            await orchestrator.acompletion("text", "go")
        (run,) = tmp_path.iterdir()
        for _, words in faults[1:]:
            assert json.loads((run / "run.json").read_text())["state"] == "failed"
            assert not (run / "answer.txt").exists()
            with pytest.raises(ModelError, match=words):
                await orchestrator.aresume(run)
        done = await orchestrator.aresume(run)
    assert (done.answer, done.stop_reason, done.iterations) == ("through", "final", len(faults) + 1)
    lost = len(server.requests) - (len(faults) * 3 + 1)  # each turn: a fault, a good reply and a sub-call, none twice
    assert lost == 0
    assert done.resent_calls == 0
    count(record_property, faults=len(faults), replays=len(faults), lost=lost, resent_calls=done.resent_calls)


async def test_a_child_whose_model_fails_is_one_slot_of_its_parent_s_batch(
    tmp_path: Path, record_property: Record
) -> None:
    cell = (
        "answers = llm_batch(['alpha', 'beta', 'gamma'])\nFINAL(repr([(bool(answer), answer) for answer in answers]))"
    )

    def plays(messages: Sequence[Mapping[str, Any]], name: str) -> Response:
        if name == "root":
            return fenced(cell)
        return PERMANENT["400"][0] if "beta" in messages[1]["content"] else "FINAL(<child>)"

    async with FakeProvider(plays) as server:
        done = await Orchestrator(
            depth=2, model=model("root", server), sub_model=model("child", server), run_root=tmp_path, prices=PRICES
        ).acompletion("text", "go")
    assert done.answer.count("(True, '<child>')") == 2
    assert re.search(r"\(False, .*This call failed: .*bad field", done.answer)
    assert (done.usage.calls, done.usage.total_tokens) == (3, server.input_tokens + server.output_tokens)
    count(record_property, faults=1)


async def test_a_truncated_reply_says_so_to_code_and_model(tmp_path: Path, record_property: Record) -> None:
    shown: list[str] = []

    def plays(messages: Sequence[Mapping[str, Any]], name: str) -> Response:
        if name == "leaf":
            return Reply(text="the first half", finish_reason="length")
        shown.append(messages[-1]["content"])
        match len(shown):
            case 1:
                return Reply(text="```repl\nprint('a cell without an end", finish_reason="length")
            case 2:
                return fenced("part = llm_query('tell')\nprint(part)")
        return "FINAL(seen)"

    async with FakeProvider(plays) as server:
        done = await Orchestrator(
            model=model("root", server), sub_model=model("leaf", server), run_root=tmp_path
        ).acompletion("text", "go")
    assert (done.answer, done.usage.calls) == ("seen", 4)
    assert "cut off" in shown[1]
    assert "the first half\n[This reply was cut off" in shown[2]
    count(record_property, faults=2)


@pytest.mark.parametrize("who", ["root", "leaf"])
async def test_a_model_that_hangs_does_not_outlast_the_time_of_the_run(
    tmp_path: Path, who: str, record_property: Record
) -> None:
    """The model's own timeout is ten minutes here."""
    asked: list[str] = []

    def plays(messages: Sequence[Mapping[str, Any]], name: str) -> Response:
        asked.append(name)
        if "time of the run is used up" in messages[-1]["content"]:
            return "FINAL(what there is)"
        return Fault(sent="headers", body=GOOD, then="hang") if name == who else fenced("print(llm_query('wait'))")

    async with FakeProvider(plays) as server:
        done = await Orchestrator(
            model=OpenAIModel("root", base_url=server.base_url),
            sub_model=OpenAIModel("leaf", base_url=server.base_url),
            run_root=tmp_path,
            limits=Limits(max_seconds=1.0),
        ).acompletion("text", "go")
    assert (done.answer, done.stop_reason) == ("what there is", "max_seconds")
    assert 1.0 <= done.seconds < 4.0
    assert asked.count(who) == (1 if who == "leaf" else 2)
    count(record_property, faults=1)
