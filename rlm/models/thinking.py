"""Separates a model's thinking from what it says. Pure. Imports text helpers.

Servers without a reasoning parser leave the thinking in the text: between tags or in a separate channel (harmony).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rlm._util.text import fenced, tool_call


@dataclass(frozen=True, slots=True)
class _Tags:
    """The marks around thinking, and those around what follows (empty if nothing marks it)."""

    opening: str
    closing: str
    around_speech: tuple[str, ...] = ()


_TAGS: Final = (
    *(
        _Tags(f"<{name}>", f"</{name}>")
        for name in (
            "think",
            "thinking",
            "thought",
            "reasoning",
            "seed:think",
            "mm:think",
            "reasoning_scratchpad",
            "scratchpad",
            "internal_monologue",
        )
    ),
    _Tags("[THINK]", "[/THINK]"),
    _Tags("◁think▷", "◁/think▷"),
    _Tags("<|begin_of_thought|>", "<|end_of_thought|>", ("<|begin_of_solution|>", "<|end_of_solution|>")),
    _Tags("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_RESPONSE|>", "<|END_RESPONSE|>")),
    _Tags("<|channel>thought", "<channel|>"),
    _Tags('<details type="reasoning"', "</details>"),
    _Tags("Here is my thought process:", "Here is my response:"),
)
_ALONE: Final = _TAGS[:-2]  # may come without the opening tag: a chat template has put it into the prompt
_NEEDS_END: Final = _TAGS[-2:]  # words that may begin an answer as well
_CLOSINGS: Final = {"</think>": r"</think(?:ing)?>", "</thinking>": r"</think(?:ing)?>"}  # models confuse these
_SELF_CLOSED: Final = re.compile(r"\s*<think(?:ing)?\s*/>", re.IGNORECASE)
_QUOTES: Final = "`'\"()[]\u2018\u2019\u201c\u201d\u00ab\u00bb"  # a tag between them is spoken of
_DOUBLED: Final = re.compile(r"\s*</think(?:ing)?>", re.IGNORECASE)  # a closing tag that came twice
_SPOKEN_OF: Final = re.compile(
    r"[ \t]+(?:is|are|and|or|opens?|starts?|begins?|marks?|tags?|appears?)\b"
)  # behind a tag
_NEEDS_NOUN: Final = re.compile(
    r"\b(?:a|an|the|of|with|by|tags?|is|and|or|contains?|closing|before|until|to)\s+$", re.IGNORECASE
)
_OPEN_QUOTE: Final = re.compile(r"(?:(?<!\w)|(?<=\b[rfb]))'[^']*$")
_CLOSE_QUOTE: Final = re.compile(r"[^']*'(?!\w)")
_ANSWER: Final = re.compile(r"^[*_`]{0,3}FINAL(?:_VAR)?\(", re.MULTILINE)
_FENCES: Final = re.compile(r"^[ \t]*(?:`{3,}|~{3,})(?P<info>[^`\n]*)$", re.MULTILINE)
PREAMBLE_CHARS: Final = 400  # of the first words that may stand before thinking
_FLAGS: Final = re.MULTILINE | re.IGNORECASE
_ALONE_IN_LINES: Final = re.compile(r"^[ \t]*<(?P<tag>think|thinking|reasoning)>[ \t]*$", _FLAGS)
MAX_THOUGHTS: Final = 16  # in a row at the beginning of a reply: more are no model's habit
MENTION_CHARS: Final = 200  # around a tag that show whether it is spoken of
_SENTENCE_ENDS: Final = (".", "!", "?", "…")
_NO_THINKING: Final = re.compile(r"\s*(?:`{3}|~{3}|[*_`]*FINAL(?:_VAR)?\()", re.IGNORECASE)  # how what is said begins

# Harmony: <|start|>assistant<|channel|>analysis<|message|>...<|end|>
_HARMONY: Final = re.compile(
    r"\s*+(?:<\|start\|>)?(?:assistant\b|analysis\b|commentary\b|final\b|to=[^\s<]++|[ \t]++)*+"
    r"(?:<\|channel\|>[^<\n]*(?:<\|constrain\|>[^<\n]*)?)?<\|message\|>"
)
_HARMONY_LATER: Final = re.compile(r"<\|end\|>\s*<\|start\|>\s*assistant[^<\n]*<\|(?:channel|message)\|>")
_HARMONY_PART: Final = re.compile(
    r"(?:<\|start\|>)?(?P<role>[^<\n]*)(?:<\|channel\|>(?P<channel>[^<\n]*))?(?:<\|constrain\|>[^<\n]*)?<\|message\|>"
)
_HARMONY_END: Final = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_HARMONY_RECIPIENT: Final = re.compile(r"\bto=(?:functions\.)?(?P<name>[\w.]+)")
_HARMONY_BARE: Final = re.compile(
    r"\s*analysis(?=[^\s:,.)])(?P<thinking>.*?)assistant(?:final|commentary(?: to=(?:functions\.)?"
    r"(?P<name>[\w.]+)(?: json| code)?)?)",
    re.DOTALL,
)


def split_thinking(text: str) -> tuple[str, str]:
    """The thinking at the beginning of a reply, and the rest, which is what the model says.

    Thinking that does not end is the whole reply. A reply that merely mentions a tag has no thinking.
    """
    if _HARMONY.match(text):
        return _split_harmony(text)
    if (later := _HARMONY_LATER.search(text)) and not _is_mentioned(text, later.start(), later.end()):
        inside, said = _split_harmony(text[later.start() :])  # a template has sent the first header
        return "\n\n".join(filter(None, [text[: later.start()].strip(), inside])), said
    if stripped := _HARMONY_BARE.match(text):  # the server dropped the special tokens
        said = text[stripped.end() :]
        return stripped["thinking"].strip(), _harmony_call(stripped["name"], said) if stripped["name"] else said
    thinking: list[str] = []
    for _ in range(MAX_THOUGHTS):
        parts = _split_tags(text) or (None if thinking else _split_closing(text))
        if parts is None:
            break
        inside, text = parts
        thinking.append(inside.strip())
    if not thinking:
        return _split_behind_preamble(text)
    if doubled := _DOUBLED.match(text):
        text = text[doubled.end() :]
    return "\n\n".join(filter(None, thinking)), text.lstrip()


def _split_behind_preamble(text: str) -> tuple[str, str]:
    """The thinking behind a few first words, between tags that stand alone in their lines."""
    match = _ALONE_IN_LINES.search(text, 0, PREAMBLE_CHARS)
    if match is None or not (
        closing := re.compile(rf"^[ \t]*</{match['tag']}>[ \t]*$", _FLAGS).search(text, match.end())
    ):
        return "", text
    before = text[: match.start()]
    if before.rstrip().endswith(":") or _FENCES.search(before) or _ANSWER.search(before):
        return "", text
    return text[match.end() : closing.start()].strip(), before + text[closing.end() :].lstrip("\n")


def _split_tags(text: str) -> tuple[str, str] | None:
    """The thinking between tags that the text begins with; None if it begins otherwise."""
    start = len(text) - len(text.lstrip("\ufeff \t\r\n"))
    if closed := _SELF_CLOSED.match(text):
        return "", text[closed.end() :]
    for tags in _TAGS:
        if text[start : start + len(tags.opening)].lower() == tags.opening.lower():
            inside = text[start + len(tags.opening) :]
            if _SPOKEN_OF.match(inside):
                return None
            span = _end(inside, tags)
            if span is None:
                return None if tags in _NEEDS_END else (inside, "")
            return inside[: span[0]], _without(inside[span[1] :], tags.around_speech)
    return None


def _end(inside: str, tags: _Tags) -> tuple[int, int] | None:
    """Where the closing tag begins and ends: behind thinking that is nested, if that ends, too."""
    closing = _CLOSINGS.get(tags.closing, re.escape(tags.closing))
    pattern = re.compile(f"(?P<opening>{re.escape(tags.opening)})|{closing}", re.IGNORECASE)
    marks = pattern.finditer(inside)
    spoken = (mark for mark in marks if not _is_mentioned(inside, mark.start(), mark.end()))
    return _balanced(spoken) or _balanced(pattern.finditer(inside))


def _balanced(marks: Iterable[re.Match[str]]) -> tuple[int, int] | None:
    """The closing mark that pairs with an opening one before the first of these, else the first closing mark."""
    first: tuple[int, int] | None = None
    depth = 1
    for match in marks:
        if match["opening"]:
            if first is not None:
                break  # it belongs to what is said
            depth += 1
            continue
        first = first or match.span()
        depth -= 1
        if depth == 0:
            return match.span()
    return first


def _split_closing(text: str) -> tuple[str, str] | None:
    """The thinking before a closing tag whose opening tag is missing; None if there is none, or it is only mentioned."""
    if _NO_THINKING.match(text):
        return None
    lowered = text.lower()
    for tags in _ALONE:
        closing = tags.closing.lower()
        start = lowered.find(closing)
        if start < 0 or tags.opening.lower() in lowered[:start]:
            continue
        end = start + len(closing)
        if not (_is_mentioned(text, start, end) or _is_part_of_speech(text, start, end)):
            return text[:start], text[end:]
    return None


def _is_mentioned(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - MENTION_CHARS) : start].rpartition("\n")[2]
    behind = text[end : end + MENTION_CHARS].partition("\n")[0]
    if _is_within(before, behind):
        return True
    if not before.strip() or before.rstrip().endswith(_SENTENCE_ENDS):
        return False
    if before[-1] in _QUOTES:
        return behind[:1] in _QUOTES and behind != ""
    if not before[-1].isspace():
        return False
    if not behind.strip():
        return before.rstrip().endswith(":") or _NEEDS_NOUN.search(before) is not None
    return behind[0].isspace() or behind[0] in ".,;:!?)"


def _is_within(before: str, behind: str) -> bool:
    """Whether quotes open before a tag and close behind it, in its line."""
    return any(before.count(quote) % 2 and behind.count(quote) % 2 for quote in ('"', "`")) or bool(
        _OPEN_QUOTE.search(before) and _CLOSE_QUOTE.match(behind)
    )


def _is_part_of_speech(text: str, start: int, end: int) -> bool:
    """Whether a closing tag stands in a block or an answer, which ends behind it."""
    opened = _ANSWER.search(text, 0, start)
    if opened and text.count("(", opened.start(), start) > text.count(")", opened.start(), start):
        return True
    fences = list(_FENCES.finditer(text, 0, start))
    following = _FENCES.search(text, end)
    return len(fences) % 2 == 1 and following is not None and not following["info"].strip()


def _split_harmony(text: str) -> tuple[str, str]:
    """The analysis, and the final channel. A call of a Python tool becomes a code block, any other one a tool call."""
    thinking: list[str] = []
    said: list[str] = []
    position = 0
    while part := _HARMONY_PART.search(text, position):
        end = _HARMONY_END.search(text, part.end())
        position = end.start() if end else len(text)
        content = text[part.end() : position]
        header = f"{part['role']} {part['channel'] or ''}"
        recipient = _HARMONY_RECIPIENT.search(header)
        if recipient is not None:
            said.append(_harmony_call(recipient["name"], content))
        elif re.search(r"\banalysis\b", header):
            thinking.append(content.strip())
        else:
            said.append(content)
        if end and end[0] not in ("<|start|>", "<|channel|>"):
            position = end.end()
    said.append(text[position:])
    return "\n\n".join(filter(None, thinking)), "\n".join(filter(str.strip, said))


def _harmony_call(name: str, content: str) -> str:
    if name.lower() in ("python", "ipython", "repl") and not content.lstrip().startswith("{"):
        return fenced(content.strip(), "repl")
    return tool_call(name, content.strip())


def _without(text: str, marks: tuple[str, ...]) -> str:
    for mark in marks:
        text = text.replace(mark, "", 1)
    return text
