"""The needle tasks follow RULER: needles, positions, haystack sizes and questions."""

from __future__ import annotations

import re
import uuid

import pytest

from rlm.evals.corpus.tokens import tokens
from rlm.evals.registry import load_tasks
from rlm.evals.tasks import ruler

TASKS = load_tasks()
NEEDLE = re.compile(r"One of the special magic (\w+) for ([\w-]+) is: ([\w-]+)\.")


@pytest.mark.parametrize(
    ("variant", "kind", "needles", "keys", "answers"),
    [
        ("single_1", "numbers", 1, 1, 1),
        ("single_2", "numbers", 1, 1, 1),
        ("single_3", "uuids", 1, 1, 1),
        ("multikey_1", "numbers", 4, 4, 1),
        ("multivalue", "numbers", 4, 1, 4),
        ("multiquery", "numbers", 4, 4, 4),
    ],
)
def test_a_variant_hides_as_many_keys_and_values_as_its_definition_says(
    variant: str, kind: str, needles: int, keys: int, answers: int
) -> None:
    instance = TASKS[f"ruler/{variant}"].make(length=8192, seed=1, index=0)
    assert isinstance(instance.context, str)
    found = NEEDLE.findall(instance.context)
    assert len(found) == needles
    assert {found_kind for found_kind, _, _ in found} == {kind}
    assert len({key for _, key, _ in found}) == keys
    assert len(instance.answers) == answers


def test_the_needle_haystack_is_made_of_other_needles_and_its_key_is_there_once() -> None:
    for variant in ("multikey_2", "multikey_3"):
        instance = TASKS[f"ruler/{variant}"].make(length=16384, seed=1, index=0)
        assert isinstance(instance.context, str)
        opening, *lines = instance.context.split("\n")
        assert "quiz" in opening
        assert all(NEEDLE.fullmatch(line) for line in lines)
        assert len(lines) % 25 == 1
        asked = re.findall(r"for ([\w-]+) mentioned", instance.query)
        assert sum(f" {asked[0]} " in line for line in lines) == 1


def test_values_are_seven_digits_or_uuids_of_version_4() -> None:
    for index in range(20):
        assert re.fullmatch(r"[1-9]\d{6}", TASKS["ruler/single_1"].make(length=2048, seed=1, index=index).answers[0])
        value = TASKS["ruler/single_3"].make(length=2048, seed=1, index=index).answers[0]
        assert uuid.UUID(value).version == 4
        assert str(uuid.UUID(value)) == value


@pytest.mark.parametrize("variant", [variant.variant for variant in ruler.VARIANTS])
@pytest.mark.parametrize("length", [2048, 8192, 65536])
def test_a_haystack_is_the_largest_that_leaves_room_for_the_answer(variant: str, length: int) -> None:
    task = TASKS[f"ruler/{variant}"]
    instance = task.make(length=length, seed=3, index=1)
    used = tokens(f"{instance.context}\n{instance.query}") + ruler.ANSWER_TOKENS
    one_step = 5 * 45 if length < ruler.SHORT_TOKENS else 500 * 1.3 if "prose" in repr(task) else 25 * 45
    assert used <= length < used + one_step


def test_lines_of_noise_are_one_sentence_group_again_and_again() -> None:
    instance = TASKS["ruler/single_1"].make(length=8192, seed=1, index=0)
    assert isinstance(instance.context, str)
    lines = instance.context.split("\n")[1:]
    assert lines.count(ruler.NOISE) == len(lines) - 1
    assert (len(lines) - 1) % 25 == 0


def test_needles_are_between_the_sentences_of_prose_at_drawn_depths() -> None:
    places = set()
    for index in range(30):
        instance = TASKS["ruler/single_2"].make(length=8192, seed=1, index=index)
        assert isinstance(instance.context, str)
        haystack = instance.context.split("\n", 1)[1]
        place = haystack.index("One of the special")
        assert place == 0 or haystack[place - 2 : place] == ". "
        places.add(round(place / len(haystack), 2))
        words = NEEDLE.sub("", haystack).split()
        assert len(words) % 500 == 0
    assert len(places) > 15
    assert min(places) < 0.2 < 0.8 < max(places)


def test_depths_are_forty_percentages_from_0_to_100() -> None:
    assert len(set(ruler.DEPTHS)) == 40
    assert (ruler.DEPTHS[0], ruler.DEPTHS[1], ruler.DEPTHS[20], ruler.DEPTHS[-1]) == (0, 3, 51, 100)


def test_one_query_uses_the_singular_and_several_the_plural() -> None:
    def query(variant: str) -> str:
        return TASKS[f"ruler/{variant}"].make(length=8192, seed=1, index=0).query

    assert re.fullmatch(
        r"What is the special magic number for \w+-\w+ mentioned in the provided text\?", query("multikey_1")
    )
    assert re.fullmatch(
        r"What are all the special magic numbers for (\w+-\w+, ){3}and \w+-\w+ mentioned in the provided text\?",
        query("multiquery"),
    )
    assert "all the special magic numbers" in query("multivalue")
    assert "special magic uuid for" in query("single_3")
