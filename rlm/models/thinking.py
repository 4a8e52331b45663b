"""Separates a model's thinking from what it says. Pure. Imports nothing of the package."""

from __future__ import annotations

import re
from typing import Final

_OPENING: Final = re.compile(r"\s*<(?P<tag>think|thinking|thought|reasoning)>", re.IGNORECASE)


def split_thinking(text: str) -> tuple[str, str]:
    """The thinking at the beginning of a reply, and the rest, which is what the model says.

    Some servers leave the thinking in the text: between `<think>` tags, or in a channel of its own (harmony).
    """
    thinking: list[str] = []
    while match := _OPENING.match(text):
        inside, _, text = text[match.end() :].partition(f"</{match['tag']}>")
        thinking.append(inside.strip())
    return "\n\n".join(filter(None, thinking)), text
