"""The conversation of one RLM, as data: what a reply asks for, and what the model is shown of a cell.

Pure. Imports types only.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from rlm.types import CellResult, Message

CELL_LANGUAGES: Final = frozenset({"repl", "python", "py", "python3"})

_FENCE: Final = re.compile(r"^(?P<indent> {0,3})(?P<fence>`{3,}+|~{3,}+)[ \t]*+(?P<info>[^`\n]*+)$")
_TICKS: Final = re.compile("`+")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """The conversation of one RLM: what is sent, and all that was said.

    The two differ once it has been made shorter. Both begin with the system prompt and the question; after them a reply
    and what the model is told make an exchange. `question` is the text of the latest one.
    """

    messages: tuple[Message, ...]
    history: tuple[Message, ...]
    question: str

    @classmethod
    def begin(cls, system: str, first: str) -> Transcript:
        messages = Message(role="system", content=system), Message(role="user", content=first)
        return cls(messages=messages, history=messages, question=first)

    @property
    def exchanged_chars(self) -> int:
        """The length of what is sent of the exchanges."""
        return sum(len(message.content) for message in self.messages[2:])

    def reply(self, text: str) -> Transcript:
        """With a reply of the model."""
        message = Message(role="assistant", content=text)
        return replace(self, messages=(*self.messages, message), history=(*self.history, message))

    def say(self, text: str) -> Transcript:
        """With what the model is told next; joined to what it was told just before, as roles have to alternate."""
        return replace(self, messages=_said(self.messages, text), history=_said(self.history, text))

    def ask(self, seen: str, question: str) -> Transcript:
        """With what the model has not been shown yet, and a further question."""
        text = f"{seen}\n\n{question}" if seen else question
        return replace(self.say(text), question=question)

    def older(self, keep_chars: int) -> Transcript:
        """Without the newest exchanges: those that fit into `keep_chars`, and the newest of all in any case."""
        return replace(self, messages=self.messages[: self._cut(keep_chars)])

    def compact(self, note: str, *, keep_chars: int) -> Transcript:
        """With a note behind the question in place of the older exchanges; of the newest, head and tail are kept."""
        newest = [_shortened(message, keep_chars // 2) for message in self.messages[self._cut(keep_chars) :]]
        noted = Message(role="user", content=f"{self.question}\n\n{note}")
        return replace(self, messages=(self.messages[0], noted, *newest))

    def _cut(self, keep_chars: int) -> int:
        """Where the newest exchanges begin."""
        cut = max(2, (len(self.messages) - 1) // 2 * 2)
        kept = sum(len(message.content) for message in self.messages[cut:])
        while cut > 2:
            kept += sum(len(message.content) for message in self.messages[cut - 2 : cut])
            if kept > keep_chars:
                break
            cut -= 2
        return cut


def _said(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    *earlier, latest = messages
    if latest.role == "user":
        return (*earlier, Message(role="user", content=f"{latest.content}\n\n{text}"))
    return (*messages, Message(role="user", content=text))


def _shortened(message: Message, limit: int) -> Message:
    """Head and tail of a message; of what the model was told, as one block, for the cut may open the fences of output."""
    short = clip(message.content, limit)
    if short == message.content or message.role == "assistant":
        return replace(message, content=short)
    return replace(message, content=f"Shortened:\n{fenced(short)}")


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


def observation(results: Sequence[CellResult], *, limit: int | None) -> str:
    """What the model is shown of a turn's cells; `limit` bounds the characters of each cell's output, where there is one."""
    many = len(results) > 1
    return "\n\n".join(
        (f"Cell {number} of {len(results)}:\n" if many else "") + describe(result, limit=limit)
        for number, result in enumerate(results, 1)
    )


def describe(result: CellResult, *, limit: int | None) -> str:
    """One cell's result as the model reads it: output, errors, and whether its variables are kept.

    What the cell could choose stands between fences that it cannot close: there a forged order is seen to be data.
    """
    parts = []
    if result.stdout:
        parts.append("Output:\n" + fenced(clip(result.stdout, limit)))
    if result.stderr:
        parts.append("Standard error:\n" + fenced(clip(result.stderr, limit)))
    match result.outcome:
        case "ok":
            if not parts:
                parts.append("The cell ran and printed nothing.")
        case "error":
            parts.append(
                "The cell ended with an exception; what it assigned before is kept:\n"
                + fenced(clip(result.error, limit))
            )
        case "timeout" | "died":
            parts.append(f"{clip(result.error, limit)}\nAll variables are as they were before this cell.")
        case "lost":
            parts.append(clip(result.error, limit))
    return "\n".join(parts)


def fenced(text: str, language: str = "") -> str:
    """Text as a block that ends where it ends: its fence is longer than any run of the same mark inside (CommonMark)."""
    longest = max((len(run) for run in _TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}"


def clip(text: str, limit: int | None) -> str:
    """Head and tail of a long text, with the number of characters left out between them."""
    if limit is None or len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]}\n[... {len(text) - limit:,} characters left out ...]\n{text[len(text) - tail :]}"
