"""Prompts promise only what the configuration allows."""

import re
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.config import Limits
from rlm.loop.reply import parse
from rlm.prompts import (
    PromptContext,
    ReplyKind,
    default_system_prompt,
    first_message,
    last_turn_message,
    next_question,
    next_step,
    no_code,
    piece_chars,
    question_from,
    repeated,
    turn_line,
    worked_example_prompt,
)


def facts(depth: int, **changes: object) -> PromptContext:
    values: dict[str, Any] = {
        "model": "big",
        "sub_model": "small",
        "models": ("big", "small"),
        "level": 0,
        "limits": Limits(),
    }
    return PromptContext(depth=depth, **(values | changes))


def test_without_depth_no_call_is_promised() -> None:
    prompt = default_system_prompt(facts(0))
    assert "llm_query" not in prompt
    assert "no other models to call" in prompt
    assert worked_example_prompt(facts(0)) == prompt


def test_with_one_level_calls_are_plain() -> None:
    prompt = default_system_prompt(facts(1))
    assert "Calls go to small" in prompt
    assert "REPL of its own" not in prompt


@pytest.mark.parametrize(("depth", "below"), [(2, "plain calls of its own"), (3, "calls of its own, 2 levels deep")])
def test_with_more_levels_the_prompt_names_the_remaining_depth(depth: int, below: str) -> None:
    assert below in default_system_prompt(facts(depth))


def test_the_prompt_lists_the_limits_in_force() -> None:
    prompt = default_system_prompt(facts(1, limits=Limits(max_iterations=7, max_cost_usd=2.5, max_lm_calls=None)))
    assert "Limits: 7 turns; 60 seconds a cell (waiting for models not counted); $2.5 in the whole run" in prompt
    assert "model calls in the whole run" not in prompt


def test_the_strategies_are_numbered_without_gaps() -> None:
    for depth in (0, 1, 2):
        lines = default_system_prompt(facts(depth)).splitlines()
        numbers = [int(line[0]) for line in lines if line[:1].isdigit() and line[1:3] == ". "]
        assert numbers == list(range(1, len(numbers) + 1))


def test_the_first_message_holds_the_question_and_the_shape_of_the_context() -> None:
    message = first_message(query="why?", context_type="list", context_size=1200, turns=5)
    about = "`context` is a list of 1,200 items. You have not seen any of it yet."
    look = "Do not answer yet: write a ```repl block that looks at `context`."
    assert message == f"Question:\nwhy?\n\n{about} {look}\n\nThis is turn 1 of 5."


def test_a_look_is_not_asked_for_without_a_context_in_the_only_turn_or_in_a_further_question() -> None:
    empty = first_message(query="why?", context_type="str", context_size=0, turns=5)
    assert "not seen" not in empty
    only = first_message(query="why?", context_type="str", context_size=9, turns=1)
    further = next_question(
        query="q", name="context_1", context_type="str", context_size=9, turns=5, history=True, variables=True
    )
    assert not any("Do not answer yet" in text for text in (empty, only, further))


def test_the_last_turn_is_announced() -> None:
    assert turn_line(5, 5) == "This is turn 5 of 5. Give the final answer now."


def test_a_long_prompt_is_shown_by_its_ends() -> None:
    shown = question_from("a" * 5000 + "b" * 5000)
    assert len(shown) < 2200
    assert shown.startswith("a" * 1000 + "\n[... 8,000 characters left out here;")
    assert question_from("short") == "short"


@pytest.mark.parametrize(
    ("window", "low", "high"),
    [
        (None, "50,000", "200,000"),
        (400_000, "50,000", "200,000"),
        (32_768, "15,000", "60,000"),
        (4_096, "2,000", "8,000"),
    ],
)
def test_the_recommended_pieces_fit_into_the_window_of_the_called_model(
    window: int | None, low: str, high: str
) -> None:
    plain, recursive = (default_system_prompt(facts(depth, sub_window=window)) for depth in (1, 2))
    assert f"pieces of about {low} to {high} characters are a good size" in plain
    assert f"fits into one prompt (up to about {high} characters)" in recursive


@given(st.integers(1, 10**7))
def test_a_recommended_piece_takes_at_most_two_characters_per_token(window: int) -> None:
    low, high = piece_chars(window)
    assert 1 <= low <= high <= min(2 * window, 200_000)


@pytest.mark.parametrize("window", [None, 100, 4_096, 128_000])
def test_the_pieces_of_the_worked_example_overlap_and_fit(window: int | None) -> None:
    prompt = worked_example_prompt(facts(1, sub_window=window))
    match = re.search(r"context\[i:i \+ ([\d_]+)\] for i in range\(0, len\(context\), ([\d_]+)\)", prompt)
    assert match
    size, step = int(match[1]), int(match[2])
    assert 0 < step < size <= piece_chars(window)[1]


@pytest.mark.parametrize("kind", get_args(ReplyKind))
def test_no_message_and_no_prompt_holds_text_that_reads_as_an_answer(kind: ReplyKind) -> None:
    """A weak model copies what it was shown. Only the dots may stand in the place of an answer."""
    step = next_step("Who found gold?", "str")
    shown = [
        *(no_code(kind, step, seen=seen) for seen in (True, False)),
        repeated(None),
        repeated(step),
        last_turn_message("all turns are used"),
    ]
    shown += [default_system_prompt(facts(depth)) for depth in (0, 1, 2)]
    for text in shown:
        assert set(re.findall(r"\bFINAL\((.*?)\)", text)) <= {"...", "result"}
        assert set(re.findall(r"\bFINAL_VAR\((.*?)\)", text)) <= {"result", '"result"'}
    example = worked_example_prompt(facts(1)).partition("An example, ")[2]
    assert not re.search(r"FINAL\(\W*\d", example)
    assert parse(example).final is None


QUESTIONS = st.one_of(st.none(), st.text(max_size=200), st.just('What is "the \\ code" of `Zoë`, 你好吗 or İstanbul?'))


@given(QUESTIONS, st.sampled_from(["str", "bytes", "list", "dict", "int"]))
def test_the_next_step_is_one_block_that_runs(question: str | None, kind: str) -> None:
    step = next_step(question, kind)
    assert parse(f"```repl\n{step}\n```").cells == (step,)
    values = {"str": "gold " * 9, "bytes": b"\xffgold", "list": ["gold", 1, None], "dict": {"a": 1}, "int": 3}
    exec(compile(step, "cell", "exec"), {"context": values[kind], "print": lambda *shown: None})


@pytest.mark.parametrize(
    ("context", "kind"),
    [
        ("noise " * 500 + "Anna Found GOLD in 1852. " + "found " * 50, "str"),
        (b"noise " * 500 + b"Anna Found GOLD in 1852. " + b"found " * 50, "bytes"),
        (["noise"] * 500 + ["Anna Found GOLD in 1852."] + ["found"] * 50, "list"),
        ({"a": "noise " * 500, "b": "Anna Found GOLD in 1852.", "c": "found " * 50}, "dict"),
    ],
)
def test_the_next_step_shows_the_place_of_the_rarest_word_of_the_question(context: object, kind: str) -> None:
    shown: list[str] = []
    step = next_step("Who found gold? Answer with the name only.", kind)
    exec(
        compile(step, "cell", "exec"),
        {"context": context, "print": lambda *said: shown.append(" ".join(map(str, said)))},
    )
    assert "Anna Found GOLD in 1852." in shown[1]
