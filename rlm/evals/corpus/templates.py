"""Templates with named parts in braces, and parsing of the texts that they produce."""

from __future__ import annotations

import functools
import re


def parts_of(template: str, text: str) -> dict[str, str] | None:
    """The parts from which the template produces `text`; None if no parts do. Repeated parts must be equal."""
    match = _pattern(template).fullmatch(text)
    return match.groupdict() if match else None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    seen, pattern = set[str](), ""
    for place, piece in enumerate(re.split(r"\{(\w+)\}", template)):
        if place % 2 == 0:
            pattern += re.escape(piece)
        else:
            pattern += f"(?P={piece})" if piece in seen else f"(?P<{piece}>.+?)"
            seen.add(piece)
    return re.compile(pattern)
