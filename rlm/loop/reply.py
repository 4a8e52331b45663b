"""Parses a reply: its thinking, its cells, and a final answer in its text. Pure. Imports models.thinking.

A reply is read from its beginning to its end: thinking, then blocks, then answers in the text around them. An answer
keeps the blocks within it. What cannot be read with certainty neither runs nor is an answer; `problem` names it.
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
    r"rlm_query\w*)\(.*\)|\w+ = [\w.]+\(.*\)|for \w+ in .+:)[ \t\r]*$",
    re.MULTILINE,
)
_TOOL_MARKS: Final = re.compile(
    r"(?<![`'\"\w])(?:<\|(?:channel|python_tag|START_ACTION)\|>|\[TOOL_CALLS\]|<[|\uff5c]\w*[|\uff5c]?tool)"
    r"|^[ \t]*+<(?:\w+:)?(?:tool_calls?>|function_calls?>|function=|invoke\b)",
    re.MULTILINE,
)
_CELL_FENCE: Final = re.compile(
    r"^(?![ ]{0,3}>)(?:[^`\n]*`{3,}(?:repl|python3?|py)[ \t\r]*$|[ \t]*`{3,}(?:repl|python3?|py)\b)",
    re.MULTILINE | re.IGNORECASE,
)

_INTENT: Final = re.compile(
    r"\b(?:I(?:'ll| will| need| am going| have to| should| want)|let(?:'s| me| us)|next step)\b", re.IGNORECASE
)

_LINE_ANSWER: Final = re.compile(  # "FINAL: 42", "Final answer: 42", "FINAL(42" without its end
    r"[*_#\s]*FINAL(?:(?:[ _]ANSWER)?[*_]{0,3}\s*[:=][*_\s]*|\()(?P<value>[^\s*_].*?)[*_\s]*", re.DOTALL | re.IGNORECASE
)

Problem = Literal["bare_code", "tool_call", "fence", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A parsed reply.

    Attributes:
        cells: the code to run, in order.
        final: the final answer in the text.
        prose: the text without the blocks of the cells.
        said: the whole text, without the thinking.
        thinking: what the model thought first.
        problem: why something that may be code or an answer is taken for neither.
    """

    cells: tuple[str, ...] = ()
    final: FinalAnswer | None = None
    prose: str = ""
    said: str = ""
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
        text: what the model said.
        cut_off: the reply ended at the token limit. An unterminated block is dropped: half a cell is worse than none.
    """
    blocks = list(find_blocks(text))
    masked = mask(text, blocks)
    answers, planned = find_answers(text, masked)
    blocks = [block for block in blocks if not any(start <= block.start < end for start, end, _ in answers)]
    ran = [block for block in blocks if block.cells and (block.closed or not cut_off)]
    cells = tuple(cell for block in ran for cell in block.cells)
    rest = mask(masked, [Block(start=start, end=end) for start, end, _ in answers])
    problem = _problem(rest, blocks)
    final = answers[-1][2] if answers else None
    if problem is not None and not cells:
        final = None
    elif final is None and not cells and not planned:
        final = boxed_answer(rest)
    if problem is None:
        problem = "plan" if planned else _unmarked(text, blocks)
    return Turn(
        cells=cells,
        final=final,
        prose=without(text, ran),
        said=text.strip(),
        problem=None if cells or final else problem,
    )


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
        if (final := parse_speech(text).final) is not None and final.kind == "text":
            return final.value
    elif line := _LINE_ANSWER.fullmatch(text):
        text = line["value"].strip()
    printed = next((output.strip() for output in reversed(outputs) if output.strip()), "")
    if printed and (not text or _INTENT.search(text)):
        return printed
    return text or turn.said


def _unmarked(text: str, blocks: Sequence[Block]) -> Problem | None:
    """Whether a block that does not run looks like Python."""
    return "bare_code" if any(_LOOKS_LIKE_CODE.search(content_of(text, block)) for block in blocks) else None


def prose_answer(turn: Turn) -> str | None:
    """What a reply says that gives no final answer although it was asked for one. None if it announces more work."""
    if turn.cells or turn.final is not None or turn.problem is not None or _INTENT.search(turn.prose):
        return None
    return last_answer(turn, []) or None


def _problem(rest: str, blocks: Sequence[Block]) -> Problem | None:
    """What in the text around blocks and answers resembles code."""
    if any(block.is_tool_call for block in blocks) or _TOOL_MARKS.search(rest):
        return "tool_call"
    if _CELL_FENCE.search(rest):
        return "fence"
    return "bare_code" if _LOOKS_LIKE_CODE.search(rest) else None
