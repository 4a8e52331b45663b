"""Every task is a pure function with the same bytes everywhere, and its answers follow from the text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.evals.corpus.seeded_random import SeededRandom
from rlm.evals.corpus.tokens import tokens
from rlm.evals.registry import load_tasks
from rlm.evals.scorers import SCORERS, score
from rlm.evals.task import Instance

TASKS = load_tasks()
SHORT = 4096
LEAST = {"oolong/trec_coarse": 0.6, "oolong_pairs": 0.6}  # of the length, which OOLONG counts in smaller tokens
DIGESTS: dict[str, str] = json.loads((Path(__file__).parent / "digests.json").read_text())


def said_rightly(instance: Instance) -> str:
    """The answers in the form that the query asks for."""
    match instance.scorer:
        case "facts" | "names" | "recall":
            return ", ".join(instance.answers)
        case "choice":
            return f"The correct answer is ({instance.answers[0]})"
        case "oolong" | "oolong_number" | "oolong_date":
            return f"Answer: {instance.answers[0]}"
        case _:
            return "\n".join(instance.answers)


@pytest.mark.parametrize("name", TASKS)
def test_an_instance_has_the_same_bytes_everywhere(name: str) -> None:
    assert TASKS[name].make(length=SHORT, seed=7, index=3).digest == DIGESTS[name]


@pytest.mark.parametrize("name", TASKS)
def test_the_answers_can_be_read_from_the_text_alone_and_score_one(name: str) -> None:
    for length, index in ((SHORT, 0), (SHORT, 1), (SHORT, 2), (2 * SHORT, 3), (8 * SHORT, 4)):
        instance = TASKS[name].make(length=length, seed=11, index=index)
        assert TASKS[name].gold(instance.context, instance.query) == instance.answers
        assert score(instance, said_rightly(instance)).strict == 1
        assert score(instance, said_rightly(instance)).lax == 1


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_answer_does_not_score_one(name: str) -> None:
    instance = TASKS[name].make(length=SHORT, seed=11, index=0)
    for wrong in ("", "I do not know.", "Answer: 0"):
        assert score(instance, wrong).strict < 1 or not instance.answers or instance.answers == ("0",)


@pytest.mark.parametrize("name", TASKS)
def test_instances_differ_by_seed_and_index_and_are_about_as_long_as_asked(name: str) -> None:
    make = TASKS[name].make
    some = [make(length=SHORT, seed=seed, index=index) for seed in (1, 2) for index in (0, 1)]
    assert len({(str(instance.context), instance.query) for instance in some}) == 4
    assert make(length=SHORT, seed=1, index=0) == some[0]
    for length in (SHORT, 8 * SHORT):
        one = make(length=length, seed=1, index=0)
        assert LEAST.get(name, 0.7) * length <= tokens(f"{one.text}\n{one.query}") <= 1.05 * length


@pytest.mark.parametrize("name", TASKS)
def test_a_length_that_is_too_short_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="too short for"):
        TASKS[name].make(length=64, seed=1, index=0)


@pytest.mark.parametrize("name", [name for name in TASKS if not name.startswith(("seed_niah", "long_output"))])
def test_a_question_of_another_task_has_no_answer(name: str) -> None:
    instance = TASKS[name].make(length=SHORT, seed=1, index=0)
    with pytest.raises(ValueError, match="Not a question"):
        TASKS[name].gold(instance.context, "What is the meaning of it all?")


@pytest.mark.parametrize("name", ["repo_qa", "long_output/sort", "long_output/join", "long_output/label"])
def test_a_length_for_which_there_are_too_few_names_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="too long for"):
        TASKS[name].make(length=2**24, seed=1, index=0)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_names_itself_and_an_existing_scorer(name: str) -> None:
    instance = TASKS[name].make(length=SHORT, seed=1, index=0)
    assert (instance.task, instance.length, instance.seed, instance.index) == (name, SHORT, 1, 0)
    assert instance.scorer in SCORERS


def test_a_digest_covers_every_field_and_its_end() -> None:
    one = Instance(task="t", length=1, seed=2, index=3, context="ab", query="c", answers=("d", "e"), scorer="recall")
    others = [
        dataclasses.replace(one, **change)
        for change in (
            {"task": "u"},
            {"length": 2},
            {"seed": 3},
            {"index": 4},
            {"context": "a", "query": "bc"},
            {"context": {"a": "b"}},
            {"answers": ("de",)},
            {"answers": ("e", "d")},
            {"scorer": "names"},
        )
    ]
    assert len({instance.digest for instance in [one, *others]}) == len(others) + 1
    forwards, backwards = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    assert dataclasses.replace(one, context=forwards).digest == dataclasses.replace(one, context=backwards).digest


def test_draws_are_a_function_of_their_names_and_stay_within_their_bounds() -> None:
    rng = SeededRandom("test", 1)
    assert [rng.below(10) for _ in range(12)] == [6, 2, 1, 7, 1, 9, 5, 0, 2, 6, 7, 3]
    assert SeededRandom("test", 11).random() != SeededRandom("test", 1, 1).random() != SeededRandom("test", 1).random()
    for _ in range(200):
        assert 3 <= rng.between(3, 5) <= 5
        assert 0 <= rng.bits(64) < 1 << 64
    assert sorted(rng.shuffled(range(50))) == list(range(50))
    assert len(set(rng.sample(range(10**9), 5))) == 5
    assert sorted(rng.sample("abc", 3)) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="without replacement"):
        rng.sample("abc", 4)


def test_tokens_of_texts_joined_by_a_blank_add_up() -> None:
    assert tokens("") == 0
    assert tokens("The lamp is lit.") == 5
    assert tokens("1234567 harbour-master") == 3 + 2 + 1 + 1
    assert tokens("One.\n\nTwo\n") == 2 + 2
    assert tokens("a b") == tokens("a") + tokens("b")
    assert tokens("extraordinarily") == 3
