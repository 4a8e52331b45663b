"""Instances from local files: your own JSONL, LongBench-v2, and OOLONG.

Nothing is downloaded. A file is JSON lines, or one JSON document: a list, or an object with one list. JSON lines are read
one at a time.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final, TextIO

from rlm.errors import ConfigError
from rlm.evals.corpus.tokens import tokens
from rlm.sandbox.decoding import decode_text

from .scorers import SCORERS, can_score
from .task import Instance

_OOLONG_SCORERS: Final = {"NUMERIC": "oolong_number", "DATE": "oolong_date"}
_DATE: Final = re.compile(r"datetime\.date\((\d+), (\d+), (\d+)\)")
_MALFORMED: Final = (  # what an invalid record may raise
    AttributeError, LookupError, TypeError, ValueError, SyntaxError, ZeroDivisionError,
)  # fmt: skip
_CHOICES: Final = (
    "{question}\n\n(A) {choice_A}\n(B) {choice_B}\n(C) {choice_C}\n(D) {choice_D}\n\n"
    'Answer in the form "The correct answer is (A)", with the letter of the correct choice.'
)


def read_jsonl(path: Path) -> Iterator[Instance]:
    """Your own instances, one record a line.

    A record has these keys:

    - `query`: the question.
    - `answer`: a text, a number, or a list of them.
    - `context` (a text, or texts by path), or `context_path` (a file or folder, relative to the folder of `path`). In a
      folder, files that are not text are skipped.
    - `scorer`, optional: a name in `rlm.evals.scorers.SCORERS`; `phrase` by default.

    Raises:
        ConfigError: a record is invalid, or a file is unreadable.
    """
    for number, place, record in _records(path):
        try:
            scorer = record.get("scorer", "phrase")
            if scorer not in SCORERS:
                raise ConfigError(f"{path}, {place}: unknown scorer {scorer!r}. Choose from {', '.join(SCORERS)}.")
            values = record["answer"] if isinstance(record["answer"], list) else [record["answer"]]
            if not all(isinstance(answer, str | int | float) for answer in values):
                raise TypeError(
                    f"answer is {_shorten(record['answer'])}; it must be a text, a number, or a list of them"
                )
            answers = tuple(map(str, values))
            _check_answers(scorer, answers)
            context = record["context"] if "context" in record else _read(path.parent / _text(record, "context_path"))
            yield _instance(f"user/{path.stem}", number, context, _text(record, "query"), answers, scorer)
        except _MALFORMED as error:
            raise _invalid_record(path, place, error) from error


def read_longbench(path: Path) -> Iterator[Instance]:
    """The multiple-choice questions of LongBench-v2 (`data.json`).

    Raises:
        ConfigError: a record is invalid, or the file is unreadable.
    """
    for number, place, record in _records(path):
        try:
            query = _CHOICES.format_map({key: record[key] for key in ("question", *(f"choice_{c}" for c in "ABCD"))})
            yield _instance("longbench_v2", number, record["context"], query, (record["answer"],), "choice")
        except _MALFORMED as error:
            raise _invalid_record(path, place, error) from error


def read_oolong(path: Path) -> Iterator[Instance]:
    """The instances of OOLONG-synth, with answers such as `['location']` and `[datetime.date(2022, 7, 1)]`.

    Raises:
        ConfigError: a record is invalid, or the file is unreadable.
    """
    for number, place, record in _records(path):
        try:
            scorer = _OOLONG_SCORERS.get(record["answer_type"].rpartition(".")[2], "oolong")
            answers = _oolong_answers(record["answer"])
            name = f"oolong_file/{record['dataset']}"
            context, question = record["context_window_text"], _text(record, "question")
            yield _instance(name, number, context, question, answers, scorer)
        except _MALFORMED as error:
            raise _invalid_record(path, place, error) from error


def _instance(task: str, number: int, context: object, query: str, answers: tuple[str, ...], scorer: str) -> Instance:
    match context:
        case str():
            size = tokens(context)
        case dict() if all(isinstance(text, str) for text in context.values()):
            size = sum(map(tokens, context.values()))
        case _:
            raise TypeError(f"context is {_shorten(context)}; it must be a text, or texts by path")
    return Instance(
        task=task,
        length=size + tokens(query),
        seed=0,
        index=number - 1,
        context=context,
        query=query,
        answers=answers,
        scorer=scorer,
    )


def _oolong_answers(text: str) -> tuple[str, ...]:
    if match := _DATE.search(text):
        return (f"{date(*map(int, match.groups())):%m/%d/%Y}",)
    return tuple(map(str, ast.literal_eval(text)))


def _records(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The records of a file: number from 1, place for error messages, and content."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors write a byte order mark
            is_document = _is_document(file)
            file.seek(0)
            if is_document:
                lines: Iterable[object] = _listed(path, json.load(file))
            else:
                lines = (json.loads(line) if line.strip() else None for line in file)
            for number, record in enumerate(lines, 1):
                place = f"{'record' if is_document else 'line'} {number}"
                if isinstance(record, dict):
                    yield number, place, record
                elif record is not None or is_document:
                    raise ConfigError(f"{path}, {place}: expected a JSON object, not {str(record)[:80]!r}.")
    except OSError as error:
        raise ConfigError(f"Cannot read {path} ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: convert it.") from error
    except ValueError as error:
        raise ConfigError(f"{path}: invalid JSON after record {number}: {error}.") from error


def _is_document(file: TextIO) -> bool:
    """Whether a file is one JSON document rather than a record a line, by its first line with content."""
    first = next((text for line in file if (text := line.strip())), "{}")
    return first.startswith("[") or not _is_json(first)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _listed(path: Path, document: object) -> list[object]:
    """The records of a JSON document: a list, an object with one list, or a record."""
    if isinstance(document, list):
        return document
    lists = [value for value in document.values() if isinstance(value, list)] if isinstance(document, dict) else []
    if len(lists) == 1 and lists[0] and all(isinstance(item, dict) for item in lists[0]):
        return lists[0]
    if isinstance(document, dict):
        return [document]
    raise ConfigError(f"{path}: expected a list of JSON objects, or one object a line.")


def _read(path: Path) -> str | dict[str, str]:
    """A file's text, or the texts of a folder's files, sorted by path."""
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
            found = ((file.relative_to(path).as_posix(), decode_text(file.read_bytes())[0]) for file in files)
            return {name: text for name, text in found if text is not None}
        text, _ = decode_text(path.read_bytes())
        if text is None:
            raise ValueError("it is not text")
        return text
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the context {path} as text: {error}") from error


def _text(record: Mapping[str, Any], name: str) -> str:
    if not isinstance(value := record[name], str):
        raise TypeError(f"{name} is {_shorten(value)}; it must be a text")
    return value


def _check_answers(scorer: str, answers: tuple[str, ...]) -> None:
    """Reject answers that the scorer could not recognize in any output."""
    try:
        known = can_score(scorer, answers)
    except _MALFORMED:
        known = False
    if not known:
        raise ValueError(f"the scorer {scorer!r} cannot recognize the answer {_shorten(answers)}")


def _shorten(value: object) -> str:
    """The start of a value, for an error message."""
    return f"{value!r:.40}"


def _invalid_record(path: Path, place: str, error: Exception) -> ConfigError:
    what = f"missing key {error}" if isinstance(error, KeyError) else str(error)
    return ConfigError(f"{path}, {place}: {what}.")
