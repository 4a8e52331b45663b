"""Keeps keys out of the texts of errors: servers and libraries repeat what they were sent. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

MIN_SECRET_CHARS: Final = 4  # a shorter value is no secret, and replacing it would garble sentences


class Secrets:
    """Values that must not be shown, in the forms in which they may be echoed."""

    def __init__(self, *values: object) -> None:
        texts = {str(value) for value in values if len(str(value)) >= MIN_SECRET_CHARS}
        in_urls = {quote(text, safe="") for text in texts}
        self._texts = sorted(texts | in_urls, key=len, reverse=True)  # the longest first, for one may hold another

    def redact(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, "[key]")
        return text

    def scrub_exception(self, error: BaseException | None) -> BaseException | None:
        """The error, changed in place: no secret is in its text or its causes'. One that stays unclean is left out."""
        if error is None:
            return None
        error.args = tuple(self.redact(arg) if isinstance(arg, str) else arg for arg in error.args)
        error.__context__ = self.scrub_exception(error.__context__)
        error.__cause__ = self.scrub_exception(error.__cause__)
        shown = f"{error} {error!r}"
        return None if self.redact(shown) != shown else error
