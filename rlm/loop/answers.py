"""Finds the final answers in the text of a reply, and reads their arguments. Pure. Imports blocks."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from keyword import iskeyword
from typing import Final, Literal

from .blocks import LIST_ITEM, line_end_of

_PHRASE: Final = (  # "The final answer is: FINAL(42)"
    r"(?:(?:so|thus|hence|therefore),?[ ])?(?:here(?:[ ]is|'s)[ ])?(?:the[ ]|my[ ])?(?:final[ ]|best[ ]|correct[ ])?"
    r"(?:answer|result|solution)[*_]{0,3}(?:[ ]is|[ ]would[ ]be)?[ ]?[:=]?[*_]{0,3}[ ]*"
)
_FINAL: Final = re.compile(
    rf"^[ \u00a0\u200b\ufeff]{{0,3}}(?:\#{{1,6}}[ ]+|[\u2190-\u2bff\ufe0f\U0001f300-\U0001faff]{{1,3}}[ ]+)?"
    rf"(?P<item>(?:[-*+•]|\d{{1,3}}[.)])[ ]+)?(?P<mark>[*_`]{{0,3}})(?i:(?P<phrase>{_PHRASE}))?(?P<tick>[*_`]{{0,3}})"
    r"(?P<name>FINAL(?:\\?_VAR)?|Final(?:_Var|_VAR|_var)?)\(",
    re.MULTILINE,
)
_FINAL_ANYWHERE: Final = re.compile(r"(?<![\w`])(?P<name>FINAL(?:_VAR)?)\(")
_PLAN: Final = re.compile(  # behind FINAL(...): it makes a sentence of it that gives no answer
    r"[ \t]*,?[ \t]*(?:(?:will|would|shall|should|must)[ ](?:then[ ])?(?:come|follow|"
    r"be[ ](?:given|called|sent|written|used)|"
    r"end|finish|go|only)|comes|goes|later|afterwards|once|when|until|as[ ]soon[ ]as|after[ ](?:I|we|that|this|looking|"
    r"reading)|is[ ](?:what[ ]I|how|where|the[ ](?:last|form|way)[ ](?:step|thing|of))|at[ ]the[ ](?:very[ ])?end|returns?|"
    r"ends|(?:is|are)[ ]used|prints|to[ ](?:finish|end|give|submit|return)|or[ ](?:FINAL|Final))\b|[ \t]*\?",
)
_WHOLE_FINAL: Final = re.compile(r"(?P<name>FINAL(?:_VAR)?)\((?=.*\)$)", re.DOTALL)
_CONDITION: Final = re.compile(
    r"\n(?:once|when|as soon as|after I|if I|later)\b"
)  # the sentence goes on in the next line
_TEMPLATE: Final = re.compile(r"\{(?P<name>[^\W\d]\w*)(?:![rsa]|:[^{}]*)?\}|(?:^|\s)\$(?P<dollar>[^\W\d]\w*)\b")
_DECORATED: Final = re.compile(
    r"[`*$<{]{1,3}(?:return )?(?P<name>[^\W\d]\w*)[`*>}]{0,3}|return (?P<returned>[^\W\d]\w*)"
)
_RETRACTED: Final = re.compile(r"\s*(?:no[,.]|wait\b|actually,|hmm|hold on|oops|on second thought)", re.IGNORECASE)
_KEYWORD: Final = re.compile(r"(?:answer|final_answer|value|result|content|text)\s*=\s*(?=[\"'])")
BUILT_IN: Final = frozenset(  # functions and variables that the REPL has before any cell
    {
        "abs",
        "all",
        "any",
        "context",
        "dict",
        "enumerate",
        "float",
        "history",
        "int",
        "json",
        "len",
        "list",
        "max",
        "min",
    }
    | {"range", "re", "repr", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip", "answer"}
    | {"llm_query", "llm_batch", "llm_query_batched", "rlm_query", "rlm_query_batched", "SHOW_VARS"}
)
MAX_NESTED: Final = 3  # FINAL within FINAL that is unwrapped
MAX_CODE_CHARS: Final = 400  # of an argument that is parsed as code: longer ones are text
PLACEHOLDERS: Final = frozenset(
    {"answer", "the answer", "your answer", "my answer", "final answer", "the final answer", "your final answer"}
    | {"final_answer", "value", "the value", "name", "variable", "variable name", "variable_name", "result"}
    | {"the result", "...", "…", "answer here", "your answer here"}
)
_BRACKET: Final = re.compile(  # matches list labels and sad smileys as a whole, so that they do not count as brackets
    r"""^[ \t]*+(?:\d{1,3}|[A-Za-z])\)(?=[ \t])|(?<!\S):-?\((?=[\s)])|[()"']""", re.MULTILINE
)
_ENDS_LINE: Final = re.compile(r"(?<![:;=])(?<![:;=]-)\)(?=[ \t\r*_`]*+$)", re.MULTILINE)  # excludes smileys
_HALF_OPEN: Final = re.compile(r"\([^()\[\]\n]*\]|\[[^()\[\]\n]*\)")  # intervals: (0, 1]
_BLANK_LINE: Final = re.compile(r"\n[ \t\r]*+\n")
_STRINGS: Final = {  # longer quotes first; `end` is empty if the string is unterminated
    quote: re.compile(rf"{quote}(?:(?!{quote})[^\\{excluded}]|\\.)*(?P<end>{quote}|)", re.DOTALL)
    for quote, excluded in (('"""', ""), ("'''", ""), ('"', r"\n"), ("'", r"\n"))
}
_TARGETS: Final = re.compile(
    r"\s*+(?!(?:for|if|while|with|elif|else|try|return|assert|def|class)\b)"
    r"(?P<names>[\w\s,()*.\[\]'\"]+?)(?::[\w.\[\], |]{1,60})?(?:[-+*/|&%]|//|\*\*)?=(?!=)"
)
_BINDINGS: Final = re.compile(
    r"\bfor\s++(?P<loop>[\w\s,()]+?)\sin\b|\bas\s++(?P<alias>\w+)|\b(?:def|class)\s++(?P<defined>\w+)"
    r"|\b(?P<walrus>\w++)\s*+:=|\bimport\s++(?P<imported>[\w., ]+)"
)
_NOT_TARGETS: Final = re.compile(r"\.\w+|\[[^\]]*\]")


def assigned_names(code: str) -> set[str]:
    """The names that Python code binds, roughly: a few may be missing, or be keywords of calls."""
    bound: list[str] = []
    for statement in re.split(r"[\n;]", code):
        statement = statement[:MAX_CODE_CHARS]
        if targets := _TARGETS.match(statement):
            bound.append(_NOT_TARGETS.sub("", targets["names"]))
        bound += (text for binding in _BINDINGS.finditer(statement) for text in binding.groups() if text)
    return {name for text in bound for name in re.findall(r"[^\W\d]\w*", text)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalAnswer:
    """A final answer in a reply's text.

    Attributes:
        kind: `text`: the text itself. `variable`: the name of a variable. `expression`: Python code, such as an f-string.
        value: the text, name or code.
        is_literal: whether the text stood in quotes, so that it can mean nothing but itself.
    """

    kind: Literal["text", "variable", "expression"]
    value: str
    is_literal: bool = False

    @property
    def is_placeholder(self) -> bool:
        """Whether the text only stands for an answer, as in the instructions."""
        bare = self.value.strip(" <>[]{}").lower()
        return self.kind == "text" and not self.is_literal and (not bare or bare in PLACEHOLDERS)

    @property
    def name(self) -> str:
        """The name that a text may stand for, without decoration: `total` for **total** and `return total`."""
        decorated = _DECORATED.fullmatch(self.value) if self.kind == "text" and not self.is_literal else None
        return (decorated["name"] or decorated["returned"]) if decorated else self.value

    @property
    def is_name(self) -> bool:
        """Whether the text may be the name of a variable."""
        return self.kind == "text" and not self.is_literal and self.name.isidentifier() and not iskeyword(self.name)

    def is_code(self, known: Collection[str]) -> bool:
        """Whether the text is meant as code that works with what exists in the REPL. `known`: names that cells bound."""
        if self.kind == "expression":
            return True
        if self.kind == "variable" or self.is_literal or self.is_name:
            return False
        names, called = _names_in(self.value)
        inserted = {name for match in _TEMPLATE.finditer(self.value) for name in match.groups()}
        return bool((names | inserted) & set(known) or called & BUILT_IN)


def find_answers(
    text: str, masked: str, *, whole: bool = True, lenient: bool = False
) -> tuple[list[tuple[int, int, FinalAnswer]], bool]:
    """The final answers with their spans, and whether one was only planned. Runs in time linear in the text's length.

    Args:
        text: the text.
        masked: the text with its blocks overwritten.
        whole: whether the text is all of the reply. Else an answer whose end is doubtful is none.
        lenient: whether to take an answer that stands anywhere in the text, because it was asked for.
    """
    found: list[tuple[int, int, FinalAnswer]] = []
    planned = False
    position = 0
    unterminated: dict[str, int] | None = dict.fromkeys(_STRINGS, 0)
    while match := (_FINAL_ANYWHERE if lenient else _FINAL).search(masked, position):
        first = None
        if unterminated is not None:
            first = next(_unpaired(masked, match.end(), len(masked), unterminated=unterminated), None)
            if first is None:  # its quotes are apostrophes; trying again for each answer would take quadratic time
                unterminated = None
        end = _closing(masked, match.end(), first)
        if end is None or not (whole or _ENDS_LINE.match(masked, end)):
            break
        if lenient or _is_answer(masked, match, end):
            answer = _final_answer(_name(match), text[match.end() : end].strip())
            found.append((match.start(), end + 1, answer))
        else:
            planned = True
        position = end
    if found and not lenient and _RETRACTED.match(masked, found[-1][1]):
        return [], True
    return found, planned


def _name(match: re.Match[str]) -> str:
    return "FINAL" if match["name"].upper() == "FINAL" else "FINAL_VAR"


def _is_answer(masked: str, match: re.Match[str], end: int) -> bool:
    """Whether the line gives an answer. Otherwise it speaks of one, or lists it among steps."""
    behind = masked[end + 1 : line_end_of(masked, end)]
    if _PLAN.match(behind) or (not behind.strip() and _CONDITION.match(masked, end + 1 + len(behind))):
        return False
    if (match["phrase"] or "`" in match["mark"] + match["tick"]) and behind.strip(" \t\r.!*_`"):
        return False
    if match["item"]:
        line = masked[masked.rfind("\n", 0, max(0, match.start() - 1)) + 1 : match.start()]
        return not LIST_ITEM.match(line)
    return True


def _final_answer(name: str, argument: str, *, nested: int = 0) -> FinalAnswer:
    if name == "FINAL_VAR":
        bare = argument.strip("` ").replace("\\_", "_")
        variable = _unquoted(bare)
        if variable == bare and not bare.isidentifier() and _expression(bare) is not None:
            return FinalAnswer(kind="expression", value=bare)
        return FinalAnswer(kind="variable", value=variable)
    inner = _FINAL.match(argument) if nested < MAX_NESTED else None
    if inner and not inner["phrase"] and next(_unpaired(argument, inner.end(), len(argument)), -1) == len(argument) - 1:
        return _final_answer(_name(inner), argument[inner.end() : -1].strip(), nested=nested + 1)
    literal = argument[keyword.end() :] if (keyword := _KEYWORD.match(argument)) else argument
    if _is_string(literal):
        return FinalAnswer(kind="text", value=_unquoted(literal), is_literal=True)
    if argument[:1] in ("f", "F") and _is_string(argument[1:]) and "{" not in argument:
        return FinalAnswer(kind="text", value=_unquoted(argument[1:]), is_literal=True)
    if _has_fields(argument):
        return FinalAnswer(kind="expression", value=argument)
    return FinalAnswer(kind="text", value=argument)


def _has_fields(argument: str) -> bool:
    """Whether the argument is made of an f-string with fields."""
    prefix = re.match(r"[fF][rR]?|[rR][fF]", argument)
    if prefix is None or argument[prefix.end() :][:1] not in ("'", '"'):
        return False
    tree = _expression(argument)
    if tree is None:  # too long, or written for a newer Python
        return "{" in argument and _is_literal(argument[prefix.end() :])
    return any(isinstance(node, ast.FormattedValue) for node in ast.walk(tree))


def _expression(text: str) -> ast.expr | None:
    """The text as a Python expression. None if it is none, or long: parsing what is nested deeply may fail badly."""
    if len(text) > MAX_CODE_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes: the text is no source of ours
            return ast.parse(f"({text}\n)", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _names_in(text: str) -> tuple[set[str], set[str]]:
    """The names in an expression that is more than a name, and those of them that it calls or reads from."""
    tree = _expression(text)
    if tree is None or isinstance(tree, ast.Name | ast.Constant | ast.Tuple):
        return set(), set()
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used = (
        node.func if isinstance(node, ast.Call) else node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call | ast.Attribute | ast.Subscript)
    )
    return names, {node.id for node in used if isinstance(node, ast.Name)}


def boxed_answer(text: str) -> FinalAnswer | None:
    r"""The content of a `\boxed{...}` with which the text ends."""
    start = text.rfind("\\boxed{")
    if start < 0 or text.count("`", text.rfind("\n", 0, start) + 1, start) % 2:
        return None
    depth = 0
    for position in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            value = text[start + len("\\boxed{") : position].strip()
            ends = not text[position + 1 :].strip(" \t\r\n$.*_])}\\")
            if not value.strip(". …") or not ends:
                return None
            return (
                _final_answer(_name(inner), value[inner.end() : -1])
                if (inner := _WHOLE_FINAL.match(value))
                else (FinalAnswer(kind="text", value=value, is_literal=True))
            )
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
    if first is None:  # an opening bracket is unpaired, or the answer has no end
        last = _ENDS_LINE.search(text, start, limit)
        if last is None or not (_HALF_OPEN.search(text, start, last.start() + 1) or _is_open(text, start, limit)):
            return None
        return last.start()
    blank = _BLANK_LINE.search(text, first, limit)
    closing = _unpaired(text, first, blank.start() if blank else limit)
    return next((position for position in closing if _ENDS_LINE.match(text, position)), first)


def _is_open(text: str, start: int, limit: int) -> bool:
    """Whether more brackets open than close, apart from the one of FINAL."""
    brackets = [bracket[0] for bracket in _BRACKET.finditer(text, start, limit)]
    return brackets.count("(") > brackets.count(")") or any(
        bracket.endswith("(") and bracket != "(" for bracket in brackets
    )


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
    if not _is_string(argument):
        return argument
    # Python reads "\r\n" in a source as "\n".
    source = argument if argument[0] in ("r", "R") else argument.replace("\r", "\\r")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(source)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # not a Python literal after all
        return argument
    return value if isinstance(value, str) else argument


def _is_string(argument: str) -> bool:
    """Whether the argument is a single string literal, perhaps a raw one."""
    return _is_literal(argument[argument[:1] in ("r", "R", "u", "U") :])


def _is_literal(argument: str) -> bool:
    """Whether the argument is a single string literal. Only then it is safe to evaluate."""
    literals = (pattern.match(argument) for pattern in _STRINGS.values())
    return any(literal and literal["end"] and literal.end() == len(argument) for literal in literals)
