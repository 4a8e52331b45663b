"""The events of a run of depth 3 with an error, a compaction, a lost sandbox and a large batch."""

import dataclasses
from collections.abc import Iterator

from rlm.events import (
    CellFinished,
    CellOutput,
    CellStarted,
    Compacted,
    Event,
    ModelReplied,
    RLMFinished,
    RLMStarted,
    RunFinished,
    RunStarted,
    SandboxLost,
    SubCallFinished,
    SubCallStarted,
    TurnStarted,
)
from rlm.types import CellResult, Usage

ROOT_MODEL, SUB_MODEL = "gpt-5", "gpt-5-mini"
LOOK = """import re

lines = context.splitlines()
print(len(lines), "lines")
dated = [line for line in lines if re.search(r"\\b20\\d\\d-\\d\\d-\\d\\d\\b", line)]
print(dated[:3])"""
BATCH = """prompts = [f"Is there a change of a figure in this part? Answer yes or no.\\n{part}" for part in parts]
answers = llm_batch(prompts, recurse=False)
for number, answer in enumerate(answers):
    if not answer:
        print("part", number, "failed:", answer)
print(sum("yes" in answer.lower() for answer in answers), "parts with a change")"""
ASK = 'found = llm_batch([f"Which figures changed in {name}?" for name in names], contexts=files)\nprint(found)'


def usage(tokens: int, dollars: float) -> Usage:
    return Usage(calls=1, input_tokens=tokens, output_tokens=tokens // 10, cost_usd=dollars)


class Clock:
    """Stamps events with virtual times; `after` advances the clock."""

    def __init__(self, start: float = 1_000.0) -> None:
        self.now = start

    def after(self, seconds: float, event: Event) -> Event:
        self.now += seconds
        return dataclasses.replace(event, ts=self.now, run_id="20260710-120000-3fa2b1")


def ask(clock: Clock, node: str, turn: int, *, model: str = ROOT_MODEL, tokens: int = 4_000) -> Iterator[Event]:
    yield clock.after(0.1, TurnStarted(node=node, turn=turn, of=30))
    yield clock.after(2.0, replied(node, model, tokens))


def replied(node: str, model: str, tokens: int) -> Event:
    return ModelReplied(
        node=node,
        role="root" if model == ROOT_MODEL else "sub",
        model=model,
        text="",
        finish_reason="stop",
        usage=usage(tokens, tokens * 2e-6),
        seconds=2.0,
    )


def cell(clock: Clock, node: str, number: int, code: str, result: CellResult, output: str = "") -> Iterator[Event]:
    yield clock.after(0.1, CellStarted(node=node, cell=number, code=code))
    if output:
        yield clock.after(0.2, CellOutput(node=node, cell=number, stream="stdout", text=output))
    yield clock.after(0.3, CellFinished(node=node, cell=number, result=result))


def rlm(node: str, level: int) -> RLMStarted:
    return RLMStarted(
        node=node,
        level=level,
        depth=3 - level,
        model=ROOT_MODEL,
        sandbox="ab" * 32,
        context_type="str",
        context_size=37_000_000,
    )


def call(node: str, prompt: str, *, batch: int, recursive: bool = False) -> SubCallStarted:
    model = ROOT_MODEL if recursive else SUB_MODEL
    return SubCallStarted(node=node, prompt=prompt, model=model, recursive=recursive, batch=batch)


def answered(node: str, *, ok: bool = True) -> SubCallFinished:
    text = "yes" if ok else "This call failed: 503 from the server, after 5 tries (request req_81ab)"
    return SubCallFinished(node=node, ok=ok, text=text, seconds=1.0)


def synthetic_run(calls: int = 1_000, *, start: float = 1_000.0) -> Iterator[Event]:
    """A whole run. It is busiest while the batch runs."""
    clock = Clock(start)
    question = "Which figures changed between the two audits, and why?"
    models = {0: ROOT_MODEL, 1: ROOT_MODEL, 2: ROOT_MODEL, 3: SUB_MODEL}
    yield clock.after(0, RunStarted(query=question, depth=3, models=models, context_bytes=37_000_000))
    yield clock.after(0.5, rlm("0", 0))
    yield from ask(clock, "0", 1)
    yield from cell(clock, "0", 1, LOOK, CellResult(outcome="ok"), "1000000 lines\n['2025-01-31 ...']\n")
    yield from ask(clock, "0", 2)
    error = "Traceback (most recent call last):\n  File \"cell 2\", line 1\nNameError: name 'parts' is not defined"
    yield from cell(clock, "0", 2, "print(parts[0])", CellResult(outcome="error", error=error))
    yield clock.after(0.1, Compacted(node="0", messages=6, summary="so far"))
    yield from ask(clock, "0", 3)
    yield clock.after(0.1, CellStarted(node="0", cell=3, code=ASK))
    for number in (1, 2, 3):
        yield clock.after(
            0, call(f"0.{number}", f"Which figures changed in report-{number}.csv?", batch=1, recursive=True)
        )
    for number in (1, 2):
        yield clock.after(0.2, rlm(f"0.{number}", 1))
    yield from ask(clock, "0.1", 1)
    yield from cell(clock, "0.1", 1, LOOK, CellResult(outcome="ok"), "12000 lines\n")
    lost = SandboxLost(node="0.2", sandbox="cd" * 32, reason="it died", replacement="ef" * 32, restored=True)
    yield clock.after(0.3, lost)
    yield clock.after(0.1, RLMFinished(node="0.1", answer="none", stop_reason="final", iterations=1))
    yield clock.after(0, answered("0.1"))
    yield from ask(clock, "0.2", 1)
    yield clock.after(0.1, CellStarted(node="0.2", cell=1, code="why = llm_query('Why did it change?', context=part)"))
    yield clock.after(0, call("0.2.1", "Why did the figure in line 17 change?", batch=0, recursive=True))
    yield clock.after(0.2, rlm("0.2.1", 2))
    yield from ask(clock, "0.2.1", 1)
    yield clock.after(0.1, CellStarted(node="0.2.1", cell=1, code=BATCH))
    yield from batch(clock, "0.2.1", calls)
    end = CellResult(outcome="ok", stdout="17 parts with a change\n")
    yield clock.after(0.1, CellFinished(node="0.2.1", cell=1, result=end))
    for node in ("0.2.1", "0.2"):
        if node == "0.2":
            yield clock.after(0.1, CellFinished(node=node, cell=1, result=CellResult(outcome="ok")))
        yield clock.after(0.1, RLMFinished(node=node, answer="of the auditors", stop_reason="final", iterations=1))
        yield clock.after(0, answered(node))
    yield clock.after(0.1, answered("0.3", ok=False))
    yield clock.after(0.1, CellFinished(node="0", cell=3, result=CellResult(outcome="ok")))
    yield clock.after(0.1, RLMFinished(node="0", answer="Two figures changed.", stop_reason="final", iterations=3))
    total = Usage(calls=calls + 7, input_tokens=1_200_000, output_tokens=120_000, cost_usd=2.4)
    yield clock.after(0.1, RunFinished(stop_reason="final", usage=total, seconds=30.0))


def batch(clock: Clock, parent: str, calls: int, *, at_once: int = 64, batch: int = 1) -> Iterator[Event]:
    """Calls of one `llm_batch`; one in 80 fails."""
    names = [f"{parent}.{number}" for number in range(1, calls + 1)]
    for number, node in enumerate(names):
        yield clock.after(0.01, call(node, f"Is there a change of a figure in this part? {number}", batch=batch))
        if number >= at_once:
            yield from end_of_call(clock, parent, number - at_once)
    for number in range(max(0, calls - at_once), calls):
        yield from end_of_call(clock, parent, number)


def end_of_call(clock: Clock, parent: str, number: int) -> Iterator[Event]:
    node = f"{parent}.{number + 1}"
    ok = number % 80 != 3
    if ok:
        yield clock.after(0, replied(node, SUB_MODEL, 1_000))
    else:
        yield clock.after(0, CellOutput(node=parent, cell=1, stream="stdout", text=f"part {number} failed: 503\n"))
    yield clock.after(0, answered(node, ok=ok))
