"""Scoring rules for answers. Each gives a strict and a lax score, and reports show both.

*Strict* is the published rule of a benchmark, quirks included, or an exact rule for our own tasks. *Lax* ignores form. It
shows what a model knew even if it wrote more than requested. Either can be the higher one. docs/evals.md lists all rules.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from rlm.evals.corpus.dates import read_date

from .task import Instance
from .tasks import niah

PHRASES: Final = ("more common", "less common", "same frequency")
SHORT_CHARS: Final = 20  # OOLONG uses a shorter answer without a colon as a whole
NUMBER_BASE: Final = 0.75  # OOLONG scores a number that is off by n with the n-th power
EMPTY_ITEMS: Final = frozenset({"", "none", "nothing", "empty", "n/a", "no one", "nobody", "[]", "()", "{}", "set()"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The scores of an output.

    Attributes:
        strict, lax: scores from 0 to 1.
        read: the part of the output that the strict rule scored.
    """

    strict: float
    lax: float
    read: str = ""


def score(instance: Instance, output: str) -> Score:
    """Score a model's output. A method that failed is not scored here; reports count it as 0."""
    return SCORERS[instance.scorer](output, instance.answers)


def can_score(scorer: str, answers: Sequence[str]) -> bool:
    """Whether a scorer can recognize these answers: they score 1 in its own form, and nonsense does not."""
    match scorer:
        case "phrase":
            outputs = list(answers)  # any one alone
        case "choice":
            outputs = [f"The correct answer is ({', '.join(answers)})"]
        case "recall" | "pairs" | "lines":
            outputs = ["\n".join(answers)]
        case _:
            outputs = [f"Answer: {', '.join(answers) or 'none'}"]
    rule = SCORERS[scorer]
    right = [rule(text, answers).strict == 1 for text in outputs]
    fooled = [rule("\0", (answer,)).strict == 1 for answer in answers]
    return bool(right) and all(right) and not any(fooled)


def recall(output: str, answers: Sequence[str]) -> Score:
    """RULER: the share of answers that the output contains, ignoring case. Lax is the same."""
    text = _normal(output).casefold()
    share = sum(_normal(answer).casefold() in text for answer in answers) / len(answers)
    return Score(strict=share, lax=share, read=output.strip())


def facts(output: str, answers: Sequence[str]) -> Score:
    """Strict: every number beside its name and no other seven-digit number. Lax: the share of numbers in the output."""
    expected = {name: value for name, _, value in (answer.rpartition("=") for answer in answers)}
    right = niah.is_correct(output, expected)
    plain = _without_separators(output)
    stated = sum(re.search(rf"(?<!\d){re.escape(value)}(?!\d)", plain) is not None for value in expected.values())
    return Score(strict=float(right), lax=stated / len(expected), read=output.strip())


def oolong(output: str, answers: Sequence[str]) -> Score:
    """OOLONG's rule for labels, users, months and comparisons. Lax: the output contains the answer."""
    candidate = _oolong_candidate(output)
    gold = answers[0]
    right = candidate == gold or (candidate in PHRASES and candidate in gold)
    return Score(strict=float(right), lax=_contains(output, gold), read=candidate)


def oolong_number(output: str, answers: Sequence[str]) -> Score:
    """OOLONG's rule for numbers: 0.75 to the power of the error."""
    candidate = _oolong_candidate(output)
    strict = 0.0
    if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", candidate, re.ASCII):
        strict = NUMBER_BASE ** min(abs(int(candidate) - int(answers[0])), 10_000)
    return Score(strict=strict, lax=_contains(output, answers[0]), read=candidate)


def oolong_date(output: str, answers: Sequence[str]) -> Score:
    """OOLONG's rule for dates: the same day in any format."""
    candidate = _oolong_candidate(output)
    read = read_date(candidate)
    right = candidate == answers[0] or (read is not None and read == read_date(answers[0]))
    return Score(strict=float(right), lax=_contains(output, answers[0]), read=candidate)


def pairs(output: str, answers: Sequence[str]) -> Score:
    """F1 over unordered pairs of users. Strict reads `(1, 2)`; lax also `['1', '2']`, `1-2`, `User 1 and User 2`."""
    expected = set(_pairs(_STRICT_PAIR, "\n".join(answers)))
    found = set(_pairs(_STRICT_PAIR, output))
    loose = found.union(_pairs(_LAX_PAIR, output))
    return Score(strict=f1(found, expected), lax=f1(loose, expected), read=f"{len(found)} pairs")


def phrase(output: str, answers: Sequence[str]) -> Score:
    """Strict: the last line is the answer, with or without `Answer:`. Lax: the output contains the answer's words."""
    final = _final(output)
    right = final != "" and any(_plain(final) == _plain(answer) for answer in answers)
    text = f" {_plain(output)} "
    within = right or any(f" {_plain(answer)} " in text for answer in answers)
    return Score(strict=float(right), lax=float(within), read=final)


def number(output: str, answers: Sequence[str]) -> Score:
    """Strict: the last line contains this number and no other. Lax: the output contains it."""
    final = _final(output)
    expected = _numbers(answers[0])
    return Score(strict=float(_numbers(final) == expected), lax=float(expected[0] in _numbers(output)), read=final)


def names(output: str, answers: Sequence[str]) -> Score:
    """A set of names, separated by commas or lines. Strict: exactly this set. Lax: F1."""
    found, expected = _items(_listed(output)), _items("\n".join(answers))
    return Score(strict=float(found == expected), lax=f1(found, expected), read=", ".join(sorted(found)))


def lines(output: str, answers: Sequence[str]) -> Score:
    """Many lines. Strict: the same lines in the same order. Lax: F1 over lines in any order."""
    found, expected = _lines(output), _lines("\n".join(answers))
    both = (Counter(found) & Counter(expected)).total()
    lax = 2 * both / (len(found) + len(expected)) if found or expected else 1.0
    return Score(strict=float(found == expected), lax=lax, read=f"{len(found)} lines")


def choice(output: str, answers: Sequence[str]) -> Score:
    """LongBench-v2: `The correct answer is (A)`, with or without parentheses. Lax: the last single letter A to D."""
    text = output.replace("*", "")
    match = re.search(r"The correct answer is \(([A-D])\)", text) or re.search(r"The correct answer is ([A-D])", text)
    letters = re.findall(r"(?<![\w'])([A-D])(?![\w'])", text)
    return Score(
        strict=float(match is not None and match[1] == answers[0]),
        lax=float(letters[-1:] == [answers[0]]),
        read=match[1] if match else "",
    )


SCORERS: Final[Mapping[str, Callable[[str, Sequence[str]], Score]]] = {
    "recall": recall,
    "facts": facts,
    "oolong": oolong,
    "oolong_number": oolong_number,
    "oolong_date": oolong_date,
    "pairs": pairs,
    "phrase": phrase,
    "number": number,
    "names": names,
    "lines": lines,
    "choice": choice,
}


def f1(found: set[str], expected: set[str]) -> float:
    """The harmonic mean of precision and recall; 1 if both sets are empty."""
    if not found and not expected:
        return 1.0
    return 2 * len(found & expected) / (len(found) + len(expected))


def _oolong_candidate(output: str) -> str:
    """The part of an output that OOLONG scores."""
    if ":" not in output:
        return output if len(output) < SHORT_CHARS else (output.split() or [""])[-1]
    candidate = output.rpartition(":")[2].strip().translate({ord(sign): None for sign in "*[]"})
    if len(candidate) >= SHORT_CHARS:
        for phrase_ in PHRASES:
            if phrase_ in candidate:
                return phrase_
    return candidate


def _contains(output: str, gold: str) -> float:
    return float(_normal(gold).casefold() in _normal(output).casefold())


_STRICT_PAIR: Final = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_LAX_PAIR: Final = re.compile(r"(?<!\d)(\d{4,})[^\d\n]{1,20}(\d{4,})")  # shorter numbers may number the lines of a list


def _pairs(pattern: re.Pattern[str], text: str) -> Iterable[str]:
    for match in pattern.finditer(text):
        first, second = sorted((int(match[1][:18]), int(match[2][:18])))
        yield f"({first}, {second})"


def _final(output: str) -> str:
    """The last line that is neither empty nor a fence, or what follows `Answer:` in it, without marks around it."""
    lines = [line.strip() for line in _nfc(output).splitlines()]
    last = next((line for line in reversed(lines) if line and not _FENCE.fullmatch(line)), "")
    return _bare(re.split(r"(?i)\banswer\W{0,2}\s*(?:is\s*)?:", last)[-1])


_FENCE: Final = re.compile(r"(?:`{3,}|~{3,})[\w+-]*")
_BOXED: Final = re.compile(r"\$*\s*\\boxed\s*\{(?:\\text\s*\{)?(.*?)\}{1,2}\s*\$*\.?")
_QUOTES: Final = ('""', "''", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb", "\u201e\u201c")


def _bare(text: str) -> str:
    """A text without emphasis, code marks, boxes of LaTeX and quotes around all of it."""
    before = None
    while before != text:
        before, text = text, text.strip().strip("*`").strip()
        if boxed := _BOXED.fullmatch(text):
            text = boxed[1]
        inner = text[1:-1]
        if len(text) > 1 and any(
            text[0] == left and text[-1] == right and left not in inner for left, right in _QUOTES
        ):
            text = inner
    return text


def _nfc(text: str) -> str:
    """One form of each letter, composed or not."""
    return unicodedata.normalize("NFC", text)


def _normal(text: str) -> str:
    """The same, with common blanks."""
    return _nfc(text).replace("\u00a0", " ").replace("\u202f", " ")


def _listed(output: str) -> str:
    """Everything after the last `Answer:`, without fences and surrounding brackets."""
    output = "\n".join(line for line in output.splitlines() if not _FENCE.fullmatch(line.strip()))
    return re.split(r"(?i)\banswer\s*:", output)[-1].strip().strip("*[](){}")


def _items(text: str) -> set[str]:
    return {item for item in map(_item, re.split(r"[,\n]", _normal(text))) if item.casefold() not in EMPTY_ITEMS}


def _lines(text: str) -> list[str]:
    return [line for line in map(str.strip, _normal(text).splitlines()) if line and not line.startswith("```")]


def _item(text: str) -> str:
    return re.sub(r"^\s*(?:[-*•]\s+|\d+[.)]\s+)?", "", text).strip(" \t`'\"*.[](){}")


def _plain(text: str) -> str:
    """Normalized: lower case, single spaces, no articles, no punctuation except in `C++` and `C#`.

    A text that consists only of articles or punctuation keeps them.
    """
    words = re.findall(r"[\w-]+(?:[+#]+(?![\w+#]))?", _nfc(text).casefold())
    return " ".join(word for word in words if word not in ("the", "a", "an")) or " ".join(words or text.split())


_SIGNS: Final = dict.fromkeys(map(ord, "\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d"), "-") | {
    0xFF0B: "+",
    0xFF0E: ".",
    0xFF0C: ",",
}
_POWER: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_NUMBER: Final = re.compile(
    r"((?:(?<![\w)\]-])[-+])?\d+(?:\.\d+)?)"  # a hyphen behind a word is no minus
    r"(?:[eE]([-+]?\d{1,3})(?!\w)|\s?(?:[\u00d7\u00b7*x]|\\times|\\cdot)\s?10(?:\^|\*\*)\{?([-+]?\d{1,3})\}?)?"
)


def _numbers(text: str) -> list[Decimal]:
    """The numbers in a text, exactly."""
    text = re.sub(r"(?<=10)[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda power: "^" + power[0].translate(_POWER), text)
    return [Decimal(f"{found[1]}e{found[2] or found[3] or 0}") for found in _NUMBER.finditer(_without_separators(text))]


def _without_separators(text: str) -> str:
    """Remove digit separators: commas, underscores, and narrow or no-break spaces. Signs and digits become ASCII."""
    text = re.sub(r"[^\W\x00-\x7f]", _ascii_digit, text.translate(_SIGNS))
    return re.sub(r"(?<![\d,.])\d{1,3}(?:[,\u202f\u00a0_]\d{3})+(?![\d])", lambda m: re.sub(r"\D", "", m[0]), text)


def _ascii_digit(found: re.Match[str]) -> str:
    return str(unicodedata.decimal(found[0], found[0]))
