"""No error shows a key."""

from __future__ import annotations

from rlm.models.redaction import Secrets

KEY = "sk-secret/0123456789"


def test_keys_are_redacted_verbatim_and_url_encoded() -> None:
    assert Secrets(KEY).redact(f"key {KEY} at /?k=sk-secret%2F0123456789") == "key [key] at /?k=[key]"


def test_a_key_that_holds_another_is_replaced_as_a_whole() -> None:
    assert Secrets("abcd", "abcd-efgh").redact("abcd-efgh abcd") == "[key] [key]"


def test_a_value_too_short_to_be_a_key_is_not_redacted() -> None:
    assert Secrets("", "e").redact("nothing here") == "nothing here"


def test_causes_and_contexts_are_scrubbed_too() -> None:
    error, cause, context = ValueError(f"a {KEY}"), KeyError(KEY), OSError(5, f"c {KEY}")
    error.__cause__, cause.__context__ = cause, context
    assert Secrets(KEY).scrub_exception(error) is error
    assert (str(error), error.__cause__, cause.args) == ("a [key]", cause, ("[key]",))
    assert cause.__context__ is None  # an OSError's text is read-only, so the error is dropped


def test_an_error_whose_text_cannot_be_redacted_is_dropped() -> None:
    class Stubborn(Exception):
        def __str__(self) -> str:
            return KEY

    assert Secrets(KEY).scrub_exception(Stubborn()) is None
    assert Secrets(KEY).scrub_exception(None) is None
