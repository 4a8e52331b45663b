"""Parses a reply: its cells, and a final answer in its text. Pure. Imports nothing of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

CELL_LANGUAGES: Final = frozenset({"repl", "python", "py", "python3"})
_FENCE: Final = re.compile(r"^(?P<indent> {0,3})(?P<fence>`{3,}+|~{3,}+)[ \t]*+(?P<info>[^`\n]*+)$")
_FINAL: Final = re.compile(r"^ {0,3}(?P<name>FINAL|FINAL_VAR)\(", re.MULTILINE)
_BRACKET: Final = re.compile(  # matches list labels and sad smileys as a whole, so that they do not count as brackets
    r"""^[ \t]*+(?:\d{1,3}|[A-Za-z])\)(?=[ \t])|(?<!\S):-?\((?=[\s)])|[()"']""", re.MULTILINE
)
_ENDS_LINE: Final = re.compile(r"(?<![:;=])(?<![:;=]-)\)(?=[ \t\r]*+$)", re.MULTILINE)  # excludes smileys
_BLANK_LINE: Final = re.compile(r"\n[ \t\r]*+\n")
_STRINGS: Final = {  # longer quotes first; `end` is empty if the string is unterminated
    quote: re.compile(rf"{quote}(?:(?!{quote})[^\\{excluded}]|\\.)*(?P<end>{quote}|)", re.DOTALL)
    for quote, excluded in (('"""', ""), ("'''", ""), ('"', r"\n"), ("'", r"\n"))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalAnswer:
    """A final answer in a reply's text: the text itself, or the name of a variable."""

    kind: Literal["text", "variable"]
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A parsed reply. `prose` is its text outside code blocks."""

    cells: tuple[str, ...]
    final: FinalAnswer | None
    prose: str


def parse(reply: str, *, cut_off: bool = False) -> Turn:
    """Find the cells of a reply (fenced blocks marked `repl` or `python`) and its final answer (outside any block).

    Fences follow CommonMark: a block ends at a line with at least as many of the same marks, or at the end of the text.
    Its lines lose the indentation of its fence.

    Args:
        reply: the model's text.
        cut_off: the reply ended at the token limit. An unterminated block is dropped: half a cell is worse than none.
    """
    cells: list[str] = []
    prose: list[str] = []
    fence = info = ""
    indent = 0
    block: list[str] = []
    for line in reply.split("\n"):
        match = _FENCE.match(line.rstrip("\r"))
        if not fence:
            if match:
                fence, info, indent, block = match["fence"], match["info"], len(match["indent"]), []
            else:
                prose.append(line)
        elif match and not match["info"].strip() and match["fence"].startswith(fence):
            cells += _cell(info, block)
            prose.append("")
            fence = ""
        else:
            block.append(line[:indent].lstrip(" ") + line[indent:])
    if fence and not cut_off:
        cells += _cell(info, block)
    text = "\n".join(prose)
    return Turn(cells=tuple(cells), final=_final(text), prose=text.strip())


def _cell(info: str, lines: list[str]) -> list[str]:
    language = info.split()[0].lower() if info.strip() else ""
    return ["\n".join(lines)] if language in CELL_LANGUAGES and any(line.strip() for line in lines) else []


def _final(prose: str) -> FinalAnswer | None:
    """The latest final answer. Runs in time linear in the length of the text."""
    found = None
    position = 0
    unterminated: dict[str, int] | None = dict.fromkeys(_STRINGS, 0)
    while match := _FINAL.search(prose, position):
        first = None
        if unterminated is not None:
            first = next(_unpaired(prose, match.end(), len(prose), unterminated=unterminated), None)
            if first is None:  # its quotes are apostrophes; trying again for each answer would take quadratic time
                unterminated = None
        end = _closing(prose, match.end(), first)
        if end is None:
            return found
        value = _unquoted(prose[match.end() : end].strip())
        found = FinalAnswer(kind="variable" if match["name"] == "FINAL_VAR" else "text", value=value)
        position = end
    return found


def _closing(text: str, start: int, first: int | None) -> int | None:
    """The position that closes the parenthesis before `start`; `first` is that position without string literals.

    Answers may contain unpaired closing brackets (a smiley, `1)`). Only those before the next blank line count. The first
    of them that ends a line and is no smiley closes the answer, otherwise the first one.
    """
    following = _FINAL.search(text, start if first is None else first)
    limit = following.start() if following else len(text)
    if first is None:
        first = next(_unpaired(text, start, limit), None)
    if first is None:  # an opening bracket is unpaired
        last = _ENDS_LINE.search(text, start, limit)
        return last.start() if last else None
    blank = _BLANK_LINE.search(text, first, limit)
    closing = _unpaired(text, first, blank.start() if blank else limit)
    return next((position for position in closing if _ENDS_LINE.match(text, position)), first)


def _unpaired(text: str, start: int, limit: int, *, unterminated: dict[str, int] | None = None) -> Iterator[int]:
    """The positions of closing parentheses that were not opened after `start`. List labels do not count.

    With `unterminated`, parentheses in string literals do not count either. It maps each kind of quote to the position
    before which none is terminated.
    """
    depth = 0
    position = start
    while bracket := _BRACKET.search(text, position, limit):
        position = bracket.end()
        match bracket[0]:
            case "(":
                depth += 1
            case ")" if depth:
                depth -= 1
            case ")":
                yield bracket.start()
            case '"' | "'" if unterminated is not None:
                position = _after_string(text, bracket.start(), unterminated)


def _after_string(text: str, start: int, unterminated: dict[str, int]) -> int:
    """The end of the string literal at `start`, or the position after the quote if no literal starts here."""
    for quote, pattern in _STRINGS.items():
        if start >= unterminated[quote] and (literal := pattern.match(text, start)):
            if literal["end"]:
                return literal.end()
            unterminated[quote] = literal.end()  # no earlier quote of this kind ends either
    return start + 1


def _unquoted(argument: str) -> str:
    """The value of a single string literal. Any other argument stays unchanged."""
    literals = (pattern.match(argument) for pattern in _STRINGS.values())
    if not any(literal and literal["end"] and literal.end() == len(argument) for literal in literals):
        return argument
    try:
        value = ast.literal_eval(argument)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # not a Python literal after all
        return argument
    return value if isinstance(value, str) else argument
