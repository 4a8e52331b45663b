"""Prompts promise only what the configuration allows."""

from typing import Any

import pytest

from rlm.config import Limits
from rlm.prompts import (
    PromptContext,
    default_system_prompt,
    first_message,
    question_from,
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
    assert message == "Question:\nwhy?\n\n`context` is a list of 1,200 items.\n\nThis is turn 1 of 5."


def test_the_last_turn_is_announced() -> None:
    assert turn_line(5, 5) == "This is turn 5 of 5. Give the final answer now."


def test_a_long_prompt_is_shown_by_its_ends() -> None:
    shown = question_from("a" * 5000 + "b" * 5000)
    assert len(shown) < 2200
    assert shown.startswith("a" * 1000 + "\n[... 8,000 characters left out here;")
    assert question_from("short") == "short"
