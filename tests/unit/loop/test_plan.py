"""The plan for a query is a function of the query, the RLM's task and the models of the run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlm.loop.plan import ChildRLM, PlainCall, Plan, Rejected, plan
from rlm.loop.task import RLMTask
from rlm.models.scripted import ScriptedModel
from rlm.prompts import question_from
from rlm.sandbox.base import SandboxQuery
from rlm.sandbox.values import encode
from rlm.types import Message

ROOT, SUB = ScriptedModel([], name="root"), ScriptedModel([], name="sub")
ASK = SandboxQuery(call=1, batch=0, prompt="what?", context=None, model=None, recurse=None)
TEXT = encode("a text")


def planned(query: SandboxQuery, *, depth: int) -> Plan:
    task = RLMTask(node="0.2", level=1, depth=depth, context=encode(""), query=None, model=ROOT)
    return plan(query, task=task, node="0.2.7", sub_model=SUB, by_name={"root": ROOT, "sub": SUB})


@pytest.mark.parametrize("query", [ASK, replace(ASK, model="root"), replace(ASK, context=TEXT, recurse=True)])
def test_depth_0_rejects_every_query(query: SandboxQuery) -> None:
    rejected = planned(query, depth=0)
    assert isinstance(rejected, Rejected)
    assert rejected.model is None
    assert "work with code alone" in rejected.text


@pytest.mark.parametrize(("depth", "recurse"), [(1, None), (1, True), (1, False), (2, False), (9, False)])
def test_the_last_level_and_a_query_that_asks_not_to_recurse_are_plain_calls(depth: int, recurse: bool | None) -> None:
    asked = (Message(role="user", content="what?"),)
    assert planned(replace(ASK, recurse=recurse), depth=depth) == PlainCall(model=SUB, messages=asked)


@pytest.mark.parametrize("recurse", [None, True])
def test_a_child_gets_the_querys_node_and_one_level_less(recurse: bool | None) -> None:
    child = planned(replace(ASK, context=TEXT, recurse=recurse), depth=3)
    task = RLMTask(node="0.2.7", level=2, depth=2, context=TEXT, query="what?", model=SUB)
    assert child == ChildRLM(task=task)
    assert child.model is SUB


def test_a_prompt_without_a_context_is_the_childs_context_and_holds_its_question() -> None:
    prompt = "long " * 10_000
    child = planned(replace(ASK, prompt=prompt), depth=2)
    assert isinstance(child, ChildRLM)
    assert b"".join(child.task.context.pieces()).decode() == prompt
    assert child.task.query == question_from(prompt)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_query_may_name_any_model_of_the_run_and_no_other(depth: int) -> None:
    assert planned(replace(ASK, model="root"), depth=depth).model is ROOT
    rejected = planned(replace(ASK, model="\0" * 100_000), depth=depth)
    assert isinstance(rejected, Rejected)
    assert rejected.model is None
    assert "root, sub" in rejected.text
    assert len(rejected.text) < 2_000


def test_a_plain_call_takes_no_context() -> None:
    rejected = planned(replace(ASK, context=TEXT), depth=1)
    assert isinstance(rejected, Rejected)
    assert rejected.model is SUB
    assert rejected.text.startswith("This call failed: a plain call takes a prompt only")
