"""With a perfect labeller, the scripted programs score exactly 1 on every template; with a worse one, less."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from statistics import mean

import pytest

from rlm.evals.corpus.questions import built_in
from rlm.evals.corpus.templates import parts_of
from rlm.evals.methods.guessing import answer_from_labels
from rlm.evals.registry import load_tasks
from rlm.evals.scorers import score
from rlm.evals.scripted.oracle import Oracle
from rlm.evals.scripted.policies import oolong_root_model
from rlm.evals.task import Instance
from rlm.evals.tasks.oolong_forms import TEMPLATES
from rlm.prompts import first_message
from rlm.types import Message

TASKS = load_tasks()
QUESTIONS = built_in()


async def answered(instance: Instance, llm: Callable[[str], str]) -> str:
    """The answer of the scripted root model. Its cells are our own, so they run in this process."""
    answers: list[str] = []
    cell: dict[str, object] = {
        "context": instance.context,
        "llm_batch": lambda prompts, recurse: [llm(prompt) for prompt in prompts],
        "FINAL": lambda value: answers.append(str(value)),
        "FINAL_VAR": lambda name: answers.append(str(cell[name])),
    }
    asked = first_message(query=instance.query, context_type="str", context_size=1, turns=9)
    messages = [Message(role="system", content="-"), Message(role="user", content=asked)]
    while not answers:
        reply = (await oolong_root_model(instance.task).complete(messages)).text
        for code in re.findall(r"```repl\n(.*?)\n```", reply, re.DOTALL):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, cell)
            messages += [
                Message(role="assistant", content=reply),
                Message(role="user", content=printed.getvalue()),
            ]
    return answers[-1]


async def scores(names: Sequence[str], oracle: Oracle, *, length: int, seeds: range, count: int) -> list[float]:
    made = [
        TASKS[name].make(length=length, seed=seed, index=i) for name in names for seed in seeds for i in range(count)
    ]
    return [score(instance, await answered(instance, oracle.reply)).strict for instance in made]


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "count"), [("oolong/trec_coarse", 50), ("oolong_pairs", 40)])
@pytest.mark.parametrize("length", [2048, 16384])
async def test_with_a_perfect_labeller_every_score_is_exactly_one(name: str, count: int, length: int) -> None:
    oracle = Oracle(questions=QUESTIONS)
    assert set(await scores([name], oracle, length=length, seeds=range(3), count=count)) == {1.0}


@pytest.mark.anyio
@pytest.mark.parametrize("accuracy", [1.0, 0.9])
@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("oolong/trec_coarse", range(0, 50, 6)),
        ("oolong_pairs", range(0, 20, 5)),
        pytest.param("oolong/trec_coarse", range(50), marks=pytest.mark.long),
        pytest.param("oolong_pairs", range(40), marks=pytest.mark.long),
    ],
)
async def test_at_2_17_tokens_a_score_is_that_of_error_free_counting_of_the_labels_given(
    name: str, indices: range, accuracy: float
) -> None:
    oracle, found = Oracle(questions=QUESTIONS, accuracy=accuracy, seed=7), list[float]()
    labelled = oracle.labelled()
    for index in indices:
        instance = TASKS[name].make(length=2**17, seed=7, index=index)
        found.append(score(instance, await answered(instance, oracle.reply)).strict)
        simulated = answer_from_labels(instance, labelled)
        assert simulated is not None
        assert found[-1] == score(instance, simulated).strict, (index, instance.query)
    assert mean(found) == 1 if accuracy == 1 else 0.5 < mean(found) < 1


@pytest.mark.anyio
async def test_every_template_is_played_and_answered_in_the_form_that_is_asked_for() -> None:
    seen = set()
    for length, seed in ((length, seed) for length in (4096, 16384) for seed in range(8)):
        for index in range(25):
            instance = TASKS["oolong/trec_coarse"].make(length=length, seed=seed, index=index)
            (name,) = [
                (scope, form.name) for scope, form, text in TEMPLATES if parts_of(text, instance.query) is not None
            ]
            if name not in seen:
                seen.add(name)
                answer = await answered(instance, Oracle(questions=QUESTIONS).reply)
                assert score(instance, answer).strict == 1, (instance.query, answer)
    assert len(seen) >= len(TEMPLATES) - 1  # a second most frequent date is rarely alone


@pytest.mark.anyio
async def test_a_worse_labeller_costs_more_points() -> None:
    means = [
        mean(await scores(list(NAMES), Oracle(questions=QUESTIONS, accuracy=p), length=8192, seeds=range(2), count=20))
        for p in (1.0, 0.9, 0.5)
    ]
    assert means[0] == 1 > means[1] > means[2] > 0


NAMES = ("oolong/trec_coarse", "oolong_pairs")


@pytest.mark.anyio
async def test_chunks_whose_call_failed_are_asked_about_again() -> None:
    instance = TASKS["oolong/trec_coarse"].make(length=8192, seed=1, index=0)
    oracle, calls = Oracle(questions=QUESTIONS), iter(range(100))
    answer = await answered(instance, lambda prompt: "" if next(calls) < 3 else oracle.reply(prompt))
    assert score(instance, answer).strict == 1


@pytest.mark.anyio
async def test_a_question_that_matches_no_template_is_not_guessed() -> None:
    instance = TASKS["oolong/trec_coarse"].make(length=4096, seed=1, index=0)
    other = Instance(**{name: getattr(instance, name) for name in Instance.__slots__} | {"query": "How are you?"})
    assert "do not understand" in await answered(other, Oracle(questions=QUESTIONS).reply)


def test_an_oracle_has_its_given_accuracy_and_is_deterministic() -> None:
    oracle = Oracle(questions=QUESTIONS, accuracy=0.9, seed=3)
    known = list(QUESTIONS.label_of)
    right = [oracle.label(question) == QUESTIONS.label_of[question] for question in known]
    assert 0.88 < mean(right) < 0.92
    assert [oracle.label(question) for question in known[:50]] == [oracle.label(question) for question in known[:50]]
    assert [Oracle(questions=QUESTIONS, accuracy=0.9, seed=4).label(question) for question in known] != [
        oracle.label(question) for question in known
    ]
    assert all(Oracle(questions=QUESTIONS).label(question) == QUESTIONS.label_of[question] for question in known)
    assert not any(
        Oracle(questions=QUESTIONS, accuracy=0).label(question) == QUESTIONS.label_of[question] for question in known
    )


def test_an_oracle_reads_numbered_questions_and_lines_of_a_window_and_nothing_else() -> None:
    oracle = Oracle(questions=QUESTIONS)
    prompt = (
        "Label these:\n12: What causes hail ?\n13. How is post script abbreviated ?\nnot a question: Who ?\n"
        "Date: Jul 01, 2022 || User: 19821 || Instance: Where is jade mined ?\n14: What is unknown here ?"
    )
    assert oracle.reply(prompt) == "12: description and abstract concept\n13: abbreviation\n3: location"
    assert oracle.reply("Hello") == "NONE"
