"""Multi-hop questions, long answers and questions about code contain the difficulties that they should."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from rlm.evals.corpus.code import read_code
from rlm.evals.corpus.tokens import tokens
from rlm.evals.task import Instance
from rlm.evals.tasks.long_output import LongOutput
from rlm.evals.tasks.multihop import Multihop
from rlm.evals.tasks.repo_qa import FORMS, RepoQA


def text_of(instance: Instance) -> str:
    assert isinstance(instance.context, str)
    return instance.context


def test_a_question_needs_two_three_or_four_hops_in_turn() -> None:
    for index in range(9):
        query = Multihop().make(length=8192, seed=1, index=index).query
        assert len(re.findall(r"the (teacher|employer|birthplace|founder|seat|mayor|river|winner) of", query)) == (
            2 + index % 3
        )


def test_at_160000_tokens_and_more_there_are_a_thousand_documents_of_distinct_names() -> None:
    for length in (2**18, 2**19):
        heads = re.findall(r"^Document (\d+): (.+)$", text_of(Multihop().make(length=length, seed=1, index=0)), re.M)
        assert [int(number) for number, _ in heads] == list(range(1, 1001))
        assert len({name for _, name in heads}) == 1000


def test_facts_stand_in_several_documents_some_of_them_in_that_of_another() -> None:
    text = text_of(Multihop().make(length=2**16, seed=1, index=0))
    own = elsewhere = 0
    for document in text.split("\n\n"):
        head, body = document.split("\n", 1)
        for subject in re.findall(r"(?:^|(?<=\. ))([^.]+?) was born in", body):
            own, elsewhere = own + (subject in head), elsewhere + (subject not in head)
    assert 0.2 < elsewhere / (own + elsewhere) < 0.4


def test_a_rumour_never_names_the_real_teacher() -> None:
    text = text_of(Multihop().make(length=2**17, seed=1, index=0))
    rumours = re.findall(r"The rumour that ([^.]+) was the teacher of ([^.]+) is false", text)
    assert len(rumours) > 50
    for other, subject in rumours:
        assert f"{subject} learned the trade from {other}." not in text


def test_a_long_answer_grows_with_the_text_and_passes_any_reply_at_the_longest() -> None:
    for variant in ("sort", "join"):
        answers = LongOutput(variant=variant).make(length=2**18, seed=1, index=0).answers
        assert sum(map(tokens, answers)) > 100_000


def test_sorted_parcels_are_the_heaviest_first_and_then_by_number() -> None:
    instance = LongOutput(variant="sort").make(length=16384, seed=1, index=0)
    rows = [(-int(grams), int(number)) for number, _, grams in (line.split(";") for line in instance.answers)]
    assert rows == sorted(rows)
    assert len(rows) == len(text_of(instance).split("\n"))
    assert len({weight for weight, _ in rows}) < len(rows)  # equal weights occur, so their rule is tested


def test_joined_orders_name_a_customer_of_the_text() -> None:
    instance = LongOutput(variant="join").make(length=16384, seed=1, index=0)
    names = set(re.findall(r"^Customer \d+: (.+)$", text_of(instance), re.M))
    assert {line.split(";")[1] for line in instance.answers} <= names
    assert len(instance.answers) > 3 * len(names)


def test_every_kind_of_question_about_code_is_asked_in_turn() -> None:
    for index, form in enumerate(FORMS * 2):
        instance = RepoQA().make(length=16384, seed=1, index=index)
        assert instance.query.startswith(form.asks.partition("`")[0])
        assert RepoQA().gold(instance.context, instance.query) == instance.answers


def test_generated_code_compiles_and_every_call_is_defined_or_imported() -> None:
    instance = RepoQA().make(length=32768, seed=1, index=0)
    assert not isinstance(instance.context, str)
    code = read_code(instance.context)
    for found in code.definitions.values():
        for name in found.calls:
            assert code.definitions[name].path == found.path or name in code.imports[found.path]
    for path, text in instance.context.items():
        compile(text, path, "exec")


def test_a_search_for_a_name_finds_more_than_its_calls() -> None:
    instance = RepoQA().make(length=65536, seed=1, index=2)
    assert not isinstance(instance.context, str)
    code, text = read_code(instance.context), "\n".join(instance.context.values())
    mentioned = Counter(re.findall(r"(\w+)\(items", text))
    too_many = sum(mentioned[found.name] > code.call_count(found.name) + 1 for found in code.functions())
    assert too_many > 0.2 * len(code.functions())


def test_code_is_read_by_its_syntax() -> None:
    code = read_code(
        {
            "a.py": "def load(x, n=3):\n    return n\n\n\ndef load_all(x):\n    # load(x)\n    return load(load(x))\n",
            "b.py": (
                'from a import load_all\n\n\nclass Box:\n    """load(x)"""\n\n    def open(self, x, w=2):\n'
                '        for i in range(3):\n            load_all(x)\n        return "load(x)"\n'
            ),
        }
    )
    assert list(code.definitions) == ["load", "load_all", "Box.open"]
    assert code.callers("load") == ["load_all"]
    assert (code.call_count("load"), code.call_count("load_all")) == (2, 1)
    assert code.importers("load_all") == ["b.py"]
    assert code.unused("a.py") == []
    assert code.methods("Box") == 1
    assert code.reached("Box.open") == ["load", "load_all"]
    assert code.definitions["Box.open"].defaults == {"w": 2}


@pytest.mark.parametrize("index", range(8))
def test_no_answer_about_code_depends_on_more_than_its_text(index: int) -> None:
    one = RepoQA().make(length=8192, seed=2, index=index)
    assert one == RepoQA().make(length=8192, seed=2, index=index)
    assert not isinstance(one.context, str)
    backwards = dict(reversed(list(one.context.items())))
    assert RepoQA().gold(backwards, one.query) == one.answers
