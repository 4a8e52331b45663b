"""Parses a reply: its thinking, its cells, and a final answer in its text. Pure. Imports models.thinking.

A reply is read from its beginning to its end: thinking, then blocks, then answers in the text around them. An answer
keeps the blocks within it. Ambiguous text neither runs nor answers; `problem` says why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from rlm.models.thinking import split_thinking

from .answers import FinalAnswer, boxed_answer, find_answers
from .blocks import Block, content_of, find_blocks, mask, without

# What looks like code, and is none that runs
_LOOKS_LIKE_CODE: Final = re.compile(
    r"^[ \t]*+(?:import [\w.]+(?: as \w+)?|from [\w.]+ import [\w, *]+|(?:print|SHOW_VARS|llm_query\w*|llm_batch|"
    r"rlm_query\w*)\(.*\)|\w+ = [\w.]+\(.*\)|for \w+ in [\w.()]+:)[ \t\r]*$",
    re.MULTILINE,
)
_TOOL_MARKS: Final = re.compile(
    r"(?<![`'\"\w])(?:<\|channel\|>\w[^<\n]*+<\|message\|>|\[TOOL_CALLS\][ \t]*[\[{\w]+[\[{(]|<[|\uff5c]\w*[|\uff5c]?tool)"
    r"|^[ \t]*+(?:<\|(?:python_tag|START_ACTION)\|>|<(?:\w+:)?(?:tool_calls?|function_calls?|invoke\b[^>\n]*|function=\w+)>"
    r"(?:[ \t\r]*$|[ \t]*[{<\w]+[ \t\r]*$|[ \t]*\{))",
    re.MULTILINE,
)
_CELL_FENCE: Final = re.compile(
    r"^(?![ ]{0,3}>)(?:[^\n`]*+(?:`(?!``)[^\n`]*+|``(?!`)[^\n`]*+)*+`{3,}+(?:repl|python3?|py)[ \t\r]*$"
    r"|[ \t]*`{3,}+(?:repl|python3?|py)\b"
    r"|(?:'''|``)(?:repl|python3?|py)[ \t\r]*$|<pre><code\b)",
    re.MULTILINE | re.IGNORECASE,
)
_ANNOUNCEMENT: Final = re.compile(  # one sentence that says what comes next
    r"(?:(?:okay|ok|sure|now|first|next|so)[,!.]?\s+)*(?:I(?:'ll| will| need to| am going to| have to| should| want to)|"
    r"let(?:'s| me| us)|to (?:find|get|count|check|answer)|next(?: step)?[,:])(?!\s+(?:go with|answer|say|choose|pick|know))"
    r"(?:[^.!?:…\n]|[.!?:…](?=\s?\w))*+[.!?:…]*+",
    re.IGNORECASE,
)
_LINE_ANSWER: Final = re.compile(  # "FINAL: 42", "**Final answer:** Paris"
    r"(?:#+\s*)?(?P<mark>\*\*|__|\*|_|)FINAL(?:[ _]ANSWER)?(?:(?P=mark)\s*[:=]|\s*[:=]\s*(?P=mark))\s*(?P<value>\S.*)",
    re.DOTALL | re.IGNORECASE,
)
_OPEN_ANSWER: Final = re.compile(r"\s*FINAL\((?P<value>[^()]+)")  # the closing parenthesis is missing

Problem = Literal["bare_code", "tool_call", "fence", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A parsed reply.

    Attributes:
        cells: the code to run, in order.
        final: the final answer in the text.
        prose: the text without the blocks of the cells.
        text: the whole reply, without the thinking.
        thinking: what the model thought first.
        problem: why something that may be code or an answer is taken for neither.
    """

    cells: tuple[str, ...] = ()
    final: FinalAnswer | None = None
    prose: str = ""
    text: str = ""
    thinking: str = ""
    problem: Problem | None = None


def parse(reply: str, *, cut_off: bool = False) -> Turn:
    """Parse a whole reply, thinking included. See `parse_speech`."""
    thinking, speech = split_thinking(reply)
    turn = parse_speech(speech, cut_off=cut_off)
    return replace(turn, thinking=thinking) if thinking else turn


def parse_speech(text: str, *, cut_off: bool = False) -> Turn:
    """Find the cells of a reply and its final answer.

    Cells are fenced blocks marked `repl` or `python`, and blocks in the forms that other systems taught models: `<code>`,
    `<tool_call>`. Fences follow CommonMark. In addition, a fence in a string of a cell does not end it, and a fence may
    stand behind text.

    Args:
        text: the reply, without the thinking.
        cut_off: the reply ended at the token limit. An unterminated block is dropped: half a cell is worse than none.
    """
    blocks = list(find_blocks(text))
    masked = mask(text, blocks)
    answers, planned = find_answers(text, masked, whole=not cut_off)
    blocks = _outside(blocks, answers)
    ran = [block for block in blocks if block.cells and (block.closed or not cut_off)]
    cells = tuple(cell for block in ran for cell in block.cells)
    rest = mask(masked, [Block(start=start, end=end) for start, end, _ in answers])
    problem = _problem(rest, blocks)
    final = answers[-1][2] if answers else None
    if final is None and not (cells or planned or cut_off):
        final = boxed_answer(rest)
    elif (
        final is not None and problem is not None and not cells and (problem == "tool_call" or _in_code(rest, answers))
    ):
        final = None
    if problem is None:
        problem = "plan" if planned else _unmarked(text, blocks)
    return Turn(
        cells=cells,
        final=final,
        prose=without(text, ran),
        text=text.strip(),
        problem=None if cells or final else problem,
    )


def read_leniently(turn: Turn) -> Turn:
    """The turn, with a final answer from anywhere in its text: the model was asked for one."""
    if turn.final is not None:
        return turn
    text = turn.prose
    blocks = list(find_blocks(text))
    answers, _ = find_answers(text, mask(text, blocks), lenient=True)
    for block in [] if answers else blocks:
        content = content_of(text, block)
        answers += find_answers(content, content, lenient=True)[0]
    return replace(turn, final=answers[-1][2]) if answers else turn


def last_answer(turn: Turn, outputs: Sequence[str]) -> str:
    """What a last reply without a final answer says. Empty only if it says nothing.

    Args:
        turn: the reply.
        outputs: the output of its cells.
    """
    text = turn.prose
    blocks = list(find_blocks(text))
    if len(blocks) == 1 and not without(text, blocks):
        text = content_of(text, blocks[0])
    elif line := _LINE_ANSWER.fullmatch(text):
        value, mark = line["value"], "**"
        text = value[2:-2] if value.startswith(mark) and value.endswith(mark) and value.count(mark) == 2 else value
    elif opened := _OPEN_ANSWER.fullmatch(text):
        text = opened["value"].strip()
    printed = next((output.strip() for output in reversed(outputs) if output.strip()), "")
    if printed and (not text or _ANNOUNCEMENT.fullmatch(text)):
        return printed
    return text or turn.text


def says_nothing(turn: Turn) -> bool:
    """Whether a last reply only holds code, a tool call, or an answer that has no value."""
    if turn.problem == "tool_call" or (turn.cells and not turn.prose):
        return True
    return turn.final is not None and "\n" not in turn.prose


def prose_answer(turn: Turn) -> str | None:
    """What a reply says that gives no final answer although it was asked for one. None if it announces more work."""
    if turn.cells or turn.final is not None or turn.problem is not None or _ANNOUNCEMENT.fullmatch(turn.prose):
        return None
    return last_answer(turn, []) or None


def _outside(blocks: Sequence[Block], answers: Sequence[tuple[int, int, FinalAnswer]]) -> list[Block]:
    """The blocks that are no part of an answer. Both come in order."""
    spans = iter(answers)
    span = next(spans, None)
    outside: list[Block] = []
    for block in blocks:
        while span is not None and span[1] <= block.start:
            span = next(spans, None)
        if span is None or block.start < span[0]:
            outside.append(block)
    return outside


def _in_code(rest: str, answers: Sequence[tuple[int, int, FinalAnswer]]) -> bool:
    """Whether the last answer is part of unmarked code, so that its text may be an expression."""
    start, _, final = answers[-1]
    if final.kind != "text" or final.is_code(()):
        return True
    line = rest[rest.rfind("\n", 0, max(0, start - 1)) + 1 : max(0, start - 1)]
    return final.is_name and _LOOKS_LIKE_CODE.match(line) is not None


def _unmarked(text: str, blocks: Sequence[Block]) -> Problem | None:
    """Whether a block without a language looks like Python."""
    unmarked = (block for block in blocks if not block.language and not block.cells)
    return "bare_code" if any(_LOOKS_LIKE_CODE.search(content_of(text, block)) for block in unmarked) else None


def _problem(rest: str, blocks: Sequence[Block]) -> Problem | None:
    """What in the text around blocks and answers resembles code."""
    if any(block.is_tool_call for block in blocks) or _TOOL_MARKS.search(rest):
        return "tool_call"
    if _CELL_FENCE.search(rest):
        return "fence"
    return "bare_code" if _LOOKS_LIKE_CODE.search(rest) else None
