"""Dates in the forms that people use."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

_NUMBERS: Final = {name[:3].lower(): number for number, name in enumerate(MONTHS, 1)}
_FORMS: Final = tuple(
    re.compile(form)
    for form in (
        r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})(?:[T ]00:00(?::00)?)?",
        r"(?P<month>\d{1,2})[/.-](?P<day>\d{1,2})[/.-](?P<year>\d{4})",  # MM/DD/YYYY, as OOLONG asks for
        r"(?P<name>[a-z]{3,9})\.? (?P<day>\d{1,2})(?:st|nd|rd|th)?,? (?P<year>\d{4})",
        r"(?P<day>\d{1,2})(?:st|nd|rd|th)?(?: of)? (?P<name>[a-z]{3,9})\.?,? (?P<year>\d{4})",
    )
)


def read_date(text: str) -> date | None:
    """Parse `07/01/2022`, `2022-07-01`, `Jul 01, 2022` or `1 July 2022`; None for any other text."""
    plain = " ".join(text.lower().strip(" .'\"`").split())
    for form in _FORMS:
        if match := form.fullmatch(plain):
            found = match.groupdict()
            month = _month(found["name"]) if "name" in found else int(found["month"])
            try:
                return date(int(found["year"]), month, int(found["day"]))
            except ValueError:
                return None
    return None


def _month(name: str) -> int:
    """The number of a month from its name or an abbreviation; 0 if unknown."""
    number = _NUMBERS.get(name[:3], 0)
    return number if number and (MONTHS[number - 1].lower().startswith(name) or name == "sept") else 0
