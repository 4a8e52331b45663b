"""Finds the final answers in the text of a reply, and reads their arguments. Pure. Imports blocks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from .blocks import LIST_ITEM, line_end_of

_PHRASE: Final = (  # "The final answer is: FINAL(42)"
    r"(?:(?:so|thus|hence|therefore),?[ ])?(?:(?:the|my)[ ])?(?:final[ ]|best[ ]|correct[ ])?"
    r"(?:answer|result|solution)(?:[ ]is|[ ]would[ ]be)?[ ]?[:=]?[*_]{0,3}[ ]*"
)
_FINAL: Final = re.compile(
    rf"^[ \u00a0\u200b\ufeff]{{0,3}}(?:\#{{1,6}}[ ]+)?(?P<item>(?:[-*+•]|\d{{1,3}}[.)])[ ]+)?(?P<mark>[*_`]{{0,3}})"
    rf"(?P<phrase>{_PHRASE})?(?P<tick>[*_`]{{0,3}})"
    r"(?P<name>FINAL(?:\\?_VAR)?)\(",
    re.MULTILINE | re.IGNORECASE,
)
_PLAN: Final = re.compile(  # behind FINAL(...), it makes a sentence of it that gives no answer
    r"[ \t]*,?[ \t]*(?:will|would|shall|should|must|comes?|goes|later|afterwards?|after|once|when|until|if|next|last|"
    r"as soon as|is (?:what|how|where|the (?:last|form|way|step))|at the (?:very )?end|"
    r"returns?|ends|(?:is|are) used|prints|to (?:finish|end|answer|give|submit|return))\b",
    re.IGNORECASE,
)
_BOXED: Final = re.compile(r"\\boxed\{")
_OPERATORS: Final = re.compile(r"""[(\[+*/%"']|\w\.\w""")
_KEYWORD: Final = re.compile(r"(?:answer|final_answer|value|result|content|text)\s*=\s*(?=[\"'])")
_CODE: Final = re.compile(r"(?P<root>[^\W\d]\w*)(?:(?:\.\w+)*[(\[].*[)\]])?", re.DOTALL)
_JOIN: Final = re.compile(r"(?:\"[^\"\n]*\"|'[^'\n]*')\.(?:join|format)\(.*\)")
BUILT_IN: Final = frozenset(  # names that begin code, whatever the cells have defined
    {"all", "any", "context", "dict", "float", "history", "int", "join", "json", "len", "list", "max", "min", "repr"}
    | {"reversed", "round", "set", "sorted", "str", "sum", "tuple"}
)
PLACEHOLDERS: Final = frozenset(
    {"answer", "the answer", "your answer", "my answer", "final answer", "the final answer", "your final answer"}
    | {
        "final_answer",
        "value",
        "the value",
        "name",
        "variable",
        "variable name",
        "variable_name",
        "result",
        "the result",
        "...",
    }
    | {"…", "answer here", "your answer here"}
)
_BRACKET: Final = re.compile(  # matches list labels and sad smileys as a whole, so that they do not count as brackets
    r"""^[ \t]*+(?:\d{1,3}|[A-Za-z])\)(?=[ \t])|(?<!\S):-?\((?=[\s)])|[()"']""", re.MULTILINE
)
_ENDS_LINE: Final = re.compile(r"(?<![:;=])(?<![:;=]-)\)(?=[ \t\r*_`]*+$)", re.MULTILINE)  # excludes smileys
_BLANK_LINE: Final = re.compile(r"\n[ \t\r]*+\n")
_STRINGS: Final = {  # longer quotes first; `end` is empty if the string is unterminated
    quote: re.compile(rf"{quote}(?:(?!{quote})[^\\{excluded}]|\\.)*(?P<end>{quote}|)", re.DOTALL)
    for quote, excluded in (('"""', ""), ("'''", ""), ('"', r"\n"), ("'", r"\n"))
}


_ASSIGNED: Final = re.compile(
    r"(?<![\w.\"'])(?P<name>[^\W\d]\w*)[ ]*(?:,[ ]*[^\W\d]\w*[ ]*)*(?::[\w.\[\], |]{1,60}=|(?:[-+*/|&]|//)?=)(?!=)"
)


def assigned_names(code: str) -> set[str]:
    """The names that Python code assigns, and perhaps a few that it passes as keywords."""
    return {match["name"] for match in _ASSIGNED.finditer(code)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalAnswer:
    """A final answer in a reply's text.

    Attributes:
        kind: `text`: the text itself. `variable`: the name of a variable. `expression`: Python code, such as an f-string.
        value: the text, name or code.
        root: the name that an unquoted text begins with, if it may be meant as code: `count`, `len(context)`.
    """

    kind: Literal["text", "variable", "expression"]
    value: str
    root: str = ""

    @property
    def is_placeholder(self) -> bool:
        """Whether the text only stands for an answer, as in the instructions."""
        bare = self.value.strip(" <>[]{}").lower()
        return self.kind == "text" and self.root != "" and (not bare or bare in PLACEHOLDERS)


def find_answers(text: str, masked: str) -> tuple[list[tuple[int, int, FinalAnswer]], bool]:
    """The final answers with their spans, and whether one was only planned. Runs in time linear in the text's length."""
    found: list[tuple[int, int, FinalAnswer]] = []
    planned = False
    position = 0
    unterminated: dict[str, int] | None = dict.fromkeys(_STRINGS, 0)
    while match := _FINAL.search(masked, position):
        first = None
        if unterminated is not None:
            first = next(_unpaired(masked, match.end(), len(masked), unterminated=unterminated), None)
            if first is None:  # its quotes are apostrophes; trying again for each answer would take quadratic time
                unterminated = None
        end = _closing(masked, match.end(), first)
        if end is None:
            break
        if _is_answer(masked, match, end):
            answer = _final_answer(match["name"].upper(), text[match.end() : end].strip())
            found.append((match.start(), end + 1, answer))
        else:
            planned = True
        position = end
    return found, planned


def _is_answer(masked: str, match: re.Match[str], end: int) -> bool:
    """Whether the line gives an answer. Otherwise it speaks of one, or lists it among steps."""
    behind = masked[end + 1 : line_end_of(masked, end)]
    if _PLAN.match(behind):
        return False
    if (match["phrase"] or "`" in match["mark"] + match["tick"]) and behind.strip(" \t\r.*_`"):
        return False
    if match["item"]:
        line = masked[masked.rfind("\n", 0, max(0, match.start() - 1)) + 1 : match.start()]
        following = line_end_of(masked, end) + 1
        return not (LIST_ITEM.match(line) or LIST_ITEM.match(masked[following : line_end_of(masked, following)]))
    return True


def _final_answer(name: str, argument: str) -> FinalAnswer:
    if name != "FINAL":
        variable = _unquoted(argument)
        if variable == argument and not argument.isidentifier() and _OPERATORS.search(argument):
            return FinalAnswer(kind="expression", value=argument)
        return FinalAnswer(kind="variable", value=variable)
    inner = _FINAL.match(argument)
    if inner and not inner["phrase"] and next(_unpaired(argument, inner.end(), len(argument)), -1) == len(argument) - 1:
        return _final_answer(inner["name"].upper(), argument[inner.end() : -1].strip())
    literal = argument[keyword.end() :] if (keyword := _KEYWORD.match(argument)) else argument
    text = _unquoted(literal)
    if text != literal:
        return FinalAnswer(kind="text", value=text)
    if _is_fstring(argument):
        return FinalAnswer(kind="expression", value=argument)
    if argument[:1] in ("f", "F") and (text := _unquoted(argument[1:])) != argument[1:]:  # an f-string without fields
        return FinalAnswer(kind="text", value=text)
    code = _CODE.fullmatch(argument)
    root = code["root"] if code else "join" if _JOIN.fullmatch(argument) else ""
    if not root and (not argument or argument.strip(" <>[]{}").lower() in PLACEHOLDERS):
        root = "()"
    return FinalAnswer(kind="text", value=argument, root=root)


def _is_fstring(argument: str) -> bool:
    prefix = re.match(r"(?:[fF][rR]?|[rR][fF])(?=[\"'])", argument)
    return prefix is not None and "{" in argument and _is_literal(argument[prefix.end() :])


def boxed_answer(text: str) -> FinalAnswer | None:
    r"""The content of the last `\boxed{...}` in the text, outside of code."""
    matches = [
        match
        for match in _BOXED.finditer(text)
        if text.count("`", text.rfind("\n", 0, match.start()) + 1, match.start()) % 2 == 0
    ]
    if not matches:
        return None
    depth = 1
    for position in range(matches[-1].end(), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            value = text[matches[-1].end() : position].strip()
            return FinalAnswer(kind="text", value=value) if value else None
    return None


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
    prefix = argument[:1] if argument[:1] in ("r", "R", "u", "U") and argument[1:2] in ("'", '"') else ""
    if not _is_literal(argument[len(prefix) :]):
        return argument
    try:
        value = ast.literal_eval(argument)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # not a Python literal after all
        return argument
    return value if isinstance(value, str) else argument


def _is_literal(argument: str) -> bool:
    """Whether the argument is a single string literal. Only then it is safe to evaluate."""
    literals = (pattern.match(argument) for pattern in _STRINGS.values())
    return any(literal and literal["end"] and literal.end() == len(argument) for literal in literals)
