"""What a reply asks for: its cells, and a final answer in its text. Pure."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

CELL_LANGUAGES: Final = frozenset({"repl", "python", "py", "python3"})
_FENCE: Final = re.compile(r"^(?P<indent> {0,3})(?P<fence>`{3,}+|~{3,}+)[ \t]*+(?P<info>[^`\n]*+)$")
_FINAL: Final = re.compile(r"^ {0,3}(?P<name>FINAL|FINAL_VAR)\(", re.MULTILINE)
_BRACKET: Final = re.compile(  # a list's label and a sad smiley are taken whole, so that they are no brackets
    r"""^[ \t]*+(?:\d{1,3}|[A-Za-z])\)(?=[ \t])|(?<!\S):-?\((?=[\s)])|[()"']""", re.MULTILINE
)
_ENDS_LINE: Final = re.compile(r"(?<![:;=])(?<![:;=]-)\)(?=[ \t\r]*+$)", re.MULTILINE)  # no smiley does
_BLANK_LINE: Final = re.compile(r"\n[ \t\r]*+\n")
_STRINGS: Final = {  # the longer quotes first; `end` is empty where a string has none
    quote: re.compile(rf"{quote}(?:(?!{quote})[^\\{excluded}]|\\.)*(?P<end>{quote}|)", re.DOTALL)
    for quote, excluded in (('"""', ""), ("'''", ""), ('"', r"\n"), ("'", r"\n"))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalAnswer:
    """A final answer in a reply's text: the answer itself, or the name of the variable that holds it."""

    kind: Literal["text", "variable"]
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one reply asks for; `prose` is its text without any code blocks."""

    cells: tuple[str, ...]
    final: FinalAnswer | None
    prose: str


def parse(reply: str, *, cut_off: bool = False) -> Turn:
    """Find the cells (fenced blocks marked `repl` or `python`) and the final answer (outside any block) of a reply.

    Fences follow CommonMark: a block ends at a line with at least as many of the same marks, or with the text, and its
    lines lose the indentation that its fence has. Where the reply was cut off, a block that ends with the text is left
    out: half a cell is worse than none.
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
    """The latest of the final answers. The time it takes to find grows with the text's length, whatever stands there."""
    found = None
    position = 0
    endless: dict[str, int] | None = dict.fromkeys(_STRINGS, 0)
    while match := _FINAL.search(prose, position):
        first = None
        if endless is not None:
            first = next(_unpaired(prose, match.end(), len(prose), endless=endless), None)
            if first is None:  # its quotes are apostrophes; to try so anew for every answer would take far too long
                endless = None
        end = _closing(prose, match.end(), first)
        if end is None:
            return found
        value = _unquoted(prose[match.end() : end].strip())
        found = FinalAnswer(kind="variable" if match["name"] == "FINAL_VAR" else "text", value=value)
        position = end
    return found


def _closing(text: str, start: int, first: int | None) -> int | None:
    """Where the parenthesis opened just before `start` closes; `first` is where it does if string literals do not count.

    An answer may hold brackets without a partner (a smiley, `1)`): of the closing ones that have none, up to the next
    blank line, the first that ends a line and is no smiley closes it, else the first of all.
    """
    following = _FINAL.search(text, start if first is None else first)
    limit = following.start() if following else len(text)
    if first is None:
        first = next(_unpaired(text, start, limit), None)
    if first is None:  # an opening one has no partner
        last = _ENDS_LINE.search(text, start, limit)
        return last.start() if last else None
    blank = _BLANK_LINE.search(text, first, limit)
    closing = _unpaired(text, first, blank.start() if blank else limit)
    return next((position for position in closing if _ENDS_LINE.match(text, position)), first)


def _unpaired(text: str, start: int, limit: int, *, endless: dict[str, int] | None = None) -> Iterator[int]:
    """Where closing parentheses stand that were not opened behind `start`; the label of a list's item is none.

    With `endless`, those in string literals do not count. It keeps for each kind of quote up to where none finds an end.
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
            case '"' | "'" if endless is not None:
                position = _behind_string(text, bracket.start(), endless)


def _behind_string(text: str, start: int, endless: dict[str, int]) -> int:
    """Where the string literal ends that begins at `start`; behind the quote if none does."""
    for quote, pattern in _STRINGS.items():
        if start >= endless[quote] and (literal := pattern.match(text, start)):
            if literal["end"]:
                return literal.end()
            endless[quote] = literal.end()  # any quote of the kind up to there was escaped, so it finds no end either
    return start + 1


def _unquoted(argument: str) -> str:
    """A single string literal stands for its value; anything else for itself."""
    literals = (pattern.match(argument) for pattern in _STRINGS.values())
    if not any(literal and literal["end"] and literal.end() == len(argument) for literal in literals):
        return argument
    try:
        value = ast.literal_eval(argument)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # Python refuses it: then it is not a literal
        return argument
    return value if isinstance(value, str) else argument
