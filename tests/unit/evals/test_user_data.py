"""Users' files are read unchanged, and an invalid record is named by its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm.errors import ConfigError
from rlm.evals.scorers import score
from rlm.evals.user_data import read_jsonl, read_longbench, read_oolong


def written(folder: Path, *records: object, name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


def test_a_record_has_its_context_in_it_or_in_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a long text", encoding="utf-8")
    (tmp_path / "code" / "deep").mkdir(parents=True)
    (tmp_path / "code" / "deep" / "b.py").write_text("b = 1\n")
    (tmp_path / "code" / "a.py").write_text("a = 1\n")
    (tmp_path / "code" / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    path = written(
        tmp_path,
        {"context": "x is 5", "query": "What is x?", "answer": 5, "scorer": "number"},
        {"context_path": "text.txt", "query": "How long?", "answer": "long"},
        "",
        {"context_path": "code", "query": "Which names?", "answer": ["a", "b"], "scorer": "names"},
        {"context": {"a.txt": "1"}, "query": "Which?", "answer": [], "scorer": "names"},
    )
    one, two, three, four = read_jsonl(path)
    assert (one.task, one.index, one.context, one.answers, one.scorer) == ("user/mine", 0, "x is 5", ("5",), "number")
    assert score(one, "x is 5").strict == 1
    assert (two.context, two.scorer) == ("a long text", "phrase")
    assert three.context == {"a.py": "a = 1\n", "deep/b.py": "b = 1\n"}
    assert score(three, "b, a").strict == 1
    assert (four.index, four.answers) == (4, ())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"context": "x", "answer": "y"}, "line 1: missing key 'query'"),
        ({"query": "x", "answer": "y"}, "line 1: missing key 'context_path'"),
        (
            {"context": "x", "query": "y", "answer": "z", "scorer": "guess"},
            "unknown scorer 'guess'. Choose from recall",
        ),
        ({"context_path": "gone.txt", "query": "y", "answer": "z"}, "Cannot read the context .*gone.txt"),
        ({"context": 5, "query": "y", "answer": "z"}, "line 1: context is 5; it must be a text, or texts by path"),
        ({"context": ["x"], "query": "y", "answer": "z"}, r"line 1: context is \['x'\]; it must be a text"),
        ({"context": {"a": 5}, "query": "y", "answer": "z"}, "line 1: context is {'a': 5}; it must be a text"),
        ({"context_path": 5, "query": "y", "answer": "z"}, "line 1: context_path is 5; it must be a text"),
        ({"context": "x", "query": ["y"], "answer": "z"}, r"line 1: query is \['y'\]; it must be a text"),
        ([1, 2], "record 1: expected a JSON object"),
        ({"context": "x", "query": "y", "answer": "many", "scorer": "number"}, "line 1: the scorer 'number' cannot"),
        (
            {"context": "x", "query": "y", "answer": "many", "scorer": "oolong_number"},
            "line 1: .*cannot recognize",
        ),
        (
            {"context": "x", "query": "y", "answer": [], "scorer": "recall"},
            r"line 1: .*cannot recognize the answer \(\)",
        ),
        ({"context": "x", "query": "y", "answer": None}, "line 1: answer is None; it must be a text, a number"),
        ({"context": "x", "query": "y", "answer": {"a": 1}}, "line 1: answer is {'a': 1}; it must be a text"),
        ({"context": "x", "query": "y", "answer": []}, "line 1: the scorer 'phrase' cannot"),
        ({"context": "x", "query": "y", "answer": ["z", ""]}, "line 1: the scorer 'phrase' cannot"),
        ({"context": "x", "query": "y", "answer": "", "scorer": "recall"}, "line 1: .*'recall' cannot"),
        (
            {"context": "x", "query": "y", "answer": ["(1, 2)", "3-4"], "scorer": "pairs"},
            "line 1: .*'pairs' cannot",
        ),
        ({"context": "x", "query": "y", "answer": "ada=(", "scorer": "facts"}, "line 1: the scorer 'facts' cannot"),
        ({"context": "x", "query": "y", "answer": "ada=12", "scorer": "facts"}, "line 1: the scorer 'facts' cannot"),
        ({"context": "x", "query": "y", "answer": "E", "scorer": "choice"}, "line 1: the scorer 'choice' cannot"),
        ({"context": "x", "query": "y", "answer": [5, 6], "scorer": "number"}, "line 1: the scorer 'number' cannot"),
        ("{", "invalid JSON after record"),
        ('"text"', "line 1: expected a JSON object"),
    ],
)
def test_a_records_missing_key_is_named(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(read_jsonl(written(tmp_path, record)))


@pytest.mark.parametrize(
    ("scorer", "answer", "output"),
    [
        ("names", ["Acme Inc.", "1. FC Union"], "1. FC Union, Acme Inc."),
        ("names", "Washington, D.C.", "Washington, D.C."),
        ("names", "none", "There is nothing.\nAnswer: none"),
        ("names", [], "none"),
        ("lines", ["  a", "", "b"], " ```\n  a\n\nb\n ```"),
        ("lines", "a\nb", "a\nb"),
        ("phrase", ["A", "+"], "A."),
        ("phrase", "C++", "Answer: C++"),
        ("pairs", [], "none"),
        ("oolong", "description and abstract concept", "Label: description and abstract concept"),
        ("oolong_date", "07/01/2022", "Date: Jul 1, 2022"),
        ("facts", ["ada=1234567", "ben=7654321"], "ben=7654321, ada=1234567"),
        ("facts", 1234567, "1234567"),
        ("choice", "C", "The correct answer is C"),
        ("recall", ["a", "b"], "b a"),
    ],
)
def test_an_answer_of_an_accepted_record_can_score_one(
    tmp_path: Path, scorer: str, answer: object, output: str
) -> None:
    record = {"context": "x", "query": "y", "answer": answer, "scorer": scorer}
    (instance,) = read_jsonl(written(tmp_path, record))
    assert score(instance, output).strict == 1


@pytest.mark.parametrize(
    "text", ['{"context": "x", "query": "y", "answer": "z"}', '[{"context": "x", "query": "y", "answer": "z"}]']
)
def test_a_byte_order_mark_before_the_records_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.jsonl").write_text(text, encoding="utf-8-sig")
    (instance,) = read_jsonl(tmp_path / "mine.jsonl")
    assert instance.context == "x"


@pytest.mark.parametrize("read", [read_jsonl, read_longbench, read_oolong])
def test_a_missing_file_is_reported(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(ConfigError, match="Cannot read"):
        list(read(tmp_path / "gone.jsonl"))


LONGBENCH = {
    "_id": "1",
    "question": "What is it?",
    "choice_A": "a cat",
    "choice_B": "a dog",
    "choice_C": "a {hen}",
    "choice_D": "a cow",
    "answer": "C",
    "context": "It is a hen.",
}


@pytest.mark.parametrize("as_list", [True, False])
def test_longbench_questions_come_with_their_choices(tmp_path: Path, as_list: bool) -> None:
    path = written(tmp_path, *([[LONGBENCH, LONGBENCH]] if as_list else [LONGBENCH, LONGBENCH]), name="data.json")
    first, second = read_longbench(path)
    assert first.query.startswith("What is it?\n\n(A) a cat\n(B) a dog\n(C) a {hen}\n(D) a cow\n")
    assert (first.answers, first.scorer, second.index) == (("C",), "choice", 1)
    assert score(first, "The correct answer is (C)").strict == 1
    lacking = {key: value for key, value in LONGBENCH.items() if key != "choice_D"}
    with pytest.raises(ConfigError, match=r"line 1: missing key 'choice_D'"):
        list(read_longbench(written(tmp_path, lacking)))
    with pytest.raises(ConfigError, match=r"record 2: missing key 'choice_D'"):
        list(read_longbench(written(tmp_path, [LONGBENCH, lacking])))


def test_oolong_answers_are_read_by_their_type(tmp_path: Path) -> None:
    def record(answer: str, kind: str) -> dict[str, str]:
        return {
            "context_window_text": "lines",
            "question": "q",
            "dataset": "trec_coarse",
            "answer": answer,
            "answer_type": f"ANSWER_TYPE.{kind}",
        }

    path = written(
        tmp_path,
        record("['numeric value']", "LABEL"),
        record("[155]", "NUMERIC"),
        record("[datetime.date(2022, 7, 1)]", "DATE"),
        record("['less common than']", "COMPARISON"),
    )
    label, number, day, comparison = read_oolong(path)
    assert {instance.task for instance in (label, number, day, comparison)} == {"oolong_file/trec_coarse"}
    assert (label.answers, number.answers, day.answers) == (("numeric value",), ("155",), ("07/01/2022",))
    assert score(number, "Answer: 156").strict == 0.75
    assert score(day, "Date: Jul 01, 2022").strict == 1
    assert score(comparison, "Answer: a is less common than b").strict == 1
    with pytest.raises(ConfigError, match="line 1: "):
        list(read_oolong(written(tmp_path, record("[", "LABEL"))))


RECORD = {"query": "q", "answer": "Paris", "context": "c"}


@pytest.mark.parametrize(
    "text",
    [
        "\n  [\n" + json.dumps(RECORD) + ",\n" + json.dumps(RECORD) + "\n]\n",  # pretty-printed, behind blank lines
        json.dumps([RECORD, RECORD], indent=2),
        "\n\n" + json.dumps({"version": 1, "data": [RECORD, RECORD]}, indent=2),  # an object with one list
        json.dumps(RECORD) + "\r\n\r\n" + json.dumps(RECORD) + "\r\n",
        "\ufeff" + json.dumps(RECORD) + "\n\n \n" + json.dumps(RECORD),
        "\n\n" + json.dumps(RECORD) + "\n" + json.dumps(RECORD),
        "\ufeff[" + json.dumps(RECORD) + ",\n" + json.dumps(RECORD) + "]",
    ],
    ids=[
        "list behind blanks",
        "list",
        "object with a list",
        "CRLF",
        "mark and blanks",
        "leading blanks",
        "mark and list",
    ],
)
def test_a_file_is_read_in_every_layout(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.jsonl").write_bytes(text.encode())
    assert [instance.answers for instance in read_jsonl(tmp_path / "mine.jsonl")] == [("Paris",), ("Paris",)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (json.dumps(RECORD).encode() + b"\n{", "invalid JSON after record 1"),
        (b"[1]", "record 1: expected a JSON object, not '1'"),
        (b"[null]", "record 1: expected a JSON object, not 'None'"),
        (b"\xff\xfe", "is not UTF-8 text: convert it"),
        (b"\n[\n{]", "invalid JSON after record 0: .*line 3"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_truly(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "mine.jsonl").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        list(read_jsonl(tmp_path / "mine.jsonl"))


def test_a_pretty_printed_record_alone_is_one_instance(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(RECORD, indent=1))
    assert len(list(read_jsonl(tmp_path / "mine.json"))) == 1


def test_a_context_file_with_an_invalid_byte_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"ok line\n" * 100 + b"caf\xe9\n")
    (tmp_path / "mine.jsonl").write_text(json.dumps({"query": "q", "answer": "Paris", "context_path": "log"}))
    (instance,) = read_jsonl(tmp_path / "mine.jsonl")
    assert str(instance.context).endswith("caf\\xe9\n")
