"""Removes secrets from texts and errors, because servers and libraries may echo them. Pure. No package imports."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

MIN_SECRET_CHARS: Final = 4  # replacing shorter values would garble ordinary text


class Secrets:
    """Secret values, plain and URL-encoded."""

    def __init__(self, *values: object) -> None:
        texts = {str(value) for value in values if len(str(value)) >= MIN_SECRET_CHARS}
        in_urls = {quote(text, safe="") for text in texts}
        self._texts = sorted(texts | in_urls, key=len, reverse=True)  # longest first: one may contain another

    def redact(self, text: str) -> str:
        """The text with each secret replaced by `[key]`."""
        for secret in self._texts:
            text = text.replace(secret, "[key]")
        return text

    def scrub_exception(self, error: BaseException | None) -> BaseException | None:
        """Redact an error and its causes, in place. Returns None if its text still shows a secret."""
        if error is None:
            return None
        error.args = tuple(self.redact(arg) if isinstance(arg, str) else arg for arg in error.args)
        error.__context__ = self.scrub_exception(error.__context__)
        error.__cause__ = self.scrub_exception(error.__cause__)
        shown = f"{error} {error!r}"
        return None if self.redact(shown) != shown else error
