"""Separates a model's thinking from what it says. Pure. Imports nothing of the package.

Servers without a reasoning parser leave the thinking in the text: between tags, or in a channel of its own (harmony).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


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
            *("think", "thinking", "thought", "thoughts", "reasoning", "reason", "analysis"),
            *("seed:think", "mm:think", "reasoning_scratchpad"),
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
_QUOTES: Final = "`'\"()[]\u2018\u2019\u201c\u201d\u00ab\u00bb"  # a tag between them is spoken of
_DOUBLED: Final = re.compile(r"\s*</think(?:ing)?>", re.IGNORECASE)  # a closing tag that came twice
_SENTENCE_ENDS: Final = (".", "!", "?", "…")
_NO_THINKING: Final = re.compile(r"\s*(?:`{3}|~{3}|[*_`]*FINAL(?:_VAR)?\()", re.IGNORECASE)  # how what is said begins

# Harmony: <|start|>assistant<|channel|>analysis<|message|>...<|end|>
_HARMONY: Final = re.compile(r"\s*(?:<\|start\|>\s*assistant\b|<\|channel\|>|<\|message\|>)")
_HARMONY_PART: Final = re.compile(
    r"(?:<\|start\|>[^<]*)?(?:<\|channel\|>(?P<channel>[^<]*))?(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_HARMONY_END: Final = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_HARMONY_RECIPIENT: Final = re.compile(r"\bto=(?:functions\.)?(?P<name>[\w.]+)")
_HARMONY_BARE: Final = re.compile(r"\s*analysis(?=[^\s:,.)])(?P<thinking>.*?)assistant(?:final|commentary)", re.DOTALL)


def split_thinking(text: str) -> tuple[str, str]:
    """The thinking at the beginning of a reply, and the rest, which is what the model says.

    Thinking that does not end is the whole reply. A reply that merely mentions a tag has no thinking.
    """
    if _HARMONY.match(text):
        return _split_harmony(text)
    if stripped := _HARMONY_BARE.match(text):  # the server dropped the special tokens
        return stripped["thinking"].strip(), text[stripped.end() :]
    thinking: list[str] = []
    while (parts := _split_tags(text) or (None if thinking else _split_closing(text))) is not None:
        inside, text = parts
        thinking.append(inside.strip())
    if not thinking:
        return "", text
    if doubled := _DOUBLED.match(text):
        text = text[doubled.end() :]
    return "\n\n".join(filter(None, thinking)), text.lstrip()


def _split_tags(text: str) -> tuple[str, str] | None:
    """The thinking between tags that the text begins with; None if it begins otherwise."""
    start = len(text) - len(text.lstrip("\ufeff \t\r\n"))
    for tags in _TAGS:
        if text[start : start + len(tags.opening)].lower() == tags.opening.lower():
            inside = text[start + len(tags.opening) :]
            end = _end(inside, tags)
            if end is None:
                return inside, ""
            return inside[:end], _without(inside[end + len(tags.closing) :], tags.around_speech)
    return None


def _end(inside: str, tags: _Tags) -> int | None:
    """Where the closing tag stands: behind thinking that is nested, if that ends, too."""
    pattern = re.compile(f"{re.escape(tags.opening)}|{re.escape(tags.closing)}", re.IGNORECASE)
    marks = list(pattern.finditer(inside))
    spoken = [mark for mark in marks if not _is_mentioned(inside, mark.start(), mark.end())]
    closing = tags.closing.lower()
    if any(mark[0].lower() == closing for mark in spoken):
        marks = spoken
    first: int | None = None
    depth = 1
    for match in marks:
        if match[0].lower() == tags.opening.lower():
            if first is not None:
                break  # it belongs to what is said
            depth += 1
            continue
        first = match.start() if first is None else first
        depth -= 1
        if depth == 0:
            return match.start()
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
        if not _is_mentioned(text, start, end):
            return text[:start], text[end:]
    return None


def _is_mentioned(text: str, start: int, end: int) -> bool:
    before = text[text.rfind("\n", 0, start) + 1 : start]
    line_end = text.find("\n", end)
    behind = text[end : len(text) if line_end < 0 else line_end]
    if not before.strip() or before.rstrip().endswith(_SENTENCE_ENDS):
        return False
    if before[-1] in _QUOTES:
        return behind[:1] in _QUOTES and behind != ""
    return before[-1].isspace() and behind.strip() != "" and (behind[0].isspace() or behind[0] in ".,;:!?)")


def _split_harmony(text: str) -> tuple[str, str]:
    """The analysis, and the final channel. A call of a Python tool becomes a code block, any other one a tool call."""
    thinking: list[str] = []
    said: list[str] = []
    position = 0
    while part := _HARMONY_PART.search(text, position):
        end = _HARMONY_END.search(text, part.end())
        position = end.start() if end else len(text)
        content = text[part.end() : position]
        channel = (part["channel"] or "final").strip()
        recipient = _HARMONY_RECIPIENT.search(channel)
        if recipient is not None:
            said.append(_harmony_call(recipient["name"], content))
        elif channel.startswith("analysis"):
            thinking.append(content.strip())
        else:
            said.append(content)
        if end and end[0] not in ("<|start|>", "<|channel|>"):
            position = end.end()
    said.append(text[position:])
    return "\n\n".join(filter(None, thinking)), "\n".join(filter(str.strip, said))


def _harmony_call(name: str, content: str) -> str:
    if name.lower() in ("python", "ipython", "repl") and not content.lstrip().startswith("{"):
        fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", content)), default=0))
        return f"{fence}repl\n{content.strip()}\n{fence}"
    return f'<tool_call>\n{{"name": "{name}", "arguments": {content.strip() or "{}"}}}\n</tool_call>'


def _without(text: str, marks: tuple[str, ...]) -> str:
    for mark in marks:
        text = text.replace(mark, "", 1)
    return text
