"""The scripted model is a function of the conversation, and its policies read nothing else."""

import pytest

from rlm.errors import ConfigError, ModelError
from rlm.models.scripted import ScriptedModel
from rlm.testing import scripted_model_for
from rlm.types import Message, Role

pytestmark = pytest.mark.anyio


def conversation(*contents: str) -> list[Message]:
    turns: list[Role] = ["user", "assistant"] * len(contents)
    roles: list[Role] = ["system", *turns]
    return [Message(role=role, content=content) for role, content in zip(roles, contents, strict=False)]


async def test_replies_in_order_are_counted_per_conversation() -> None:
    model = ScriptedModel(["one", "two"])
    assert (await model.complete(conversation("s", "q"))).text == "one"
    assert (await model.complete(conversation("s", "q"))).text == "one"
    assert (await model.complete(conversation("s", "q", "one", "seen"))).text == "two"
    with pytest.raises(ModelError, match="2 replies"):
        await model.complete(conversation("s", "q", "one", "seen", "two", "seen"))


async def test_a_scripted_call_is_counted_and_free() -> None:
    reply = await ScriptedModel(["12345"]).complete([Message(role="user", content="x" * 9)])
    assert (reply.usage.calls, reply.usage.input_tokens, reply.usage.output_tokens) == (1, 3, 2)
    assert reply.usage.cost_usd == 0.0


@pytest.mark.parametrize(
    ("task", "prompt", "reply"),
    [
        ("needle", "words\nThe magic number is 1234567.\nwords", "1234567"),
        ("needle", "words", "NONE"),
        (
            "facts",
            "The magic number of ada is 1234567.\nThe magic number of ben is 7654321.",
            "ada=1234567\nben=7654321",
        ),
        ("facts", "words", "NONE"),
        ("tree", "Sum of these?\n\n[1, 2, 39]", "42"),
    ],
)
async def test_as_sub_model_a_policy_answers_from_its_prompt(task: str, prompt: str, reply: str) -> None:
    assert (await scripted_model_for(task).complete([Message(role="user", content=prompt)])).text == reply


async def test_as_root_the_needle_policy_looks_before_it_answers() -> None:
    model = scripted_model_for("needle")
    first = (await model.complete(conversation("s", "q"))).text
    assert "```repl" in first
    assert "FINAL" not in first
    last = conversation("s", "q", first, "...", "search", "Output:\n['7654321']")
    assert (await model.complete(last)).text == "FINAL(7654321)"


def test_an_unknown_task_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'chess'\. Choose from needle, facts, needle by pieces, tree"):
        scripted_model_for("chess")
