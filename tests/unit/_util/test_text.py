"""Numbers and texts have the same form everywhere."""

from __future__ import annotations

import pytest

from rlm._util.text import dollars, first_line, longest_tick_run, quantity, shorten


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "unknown"),
        (0, "$0"),
        (0.0035934, "$0.003593"),
        (1.25, "$1.25"),
        (999.94, "$999.9"),
        (12_345.6, "$12,346"),
    ],
)
def test_dollars_have_four_digits_and_never_an_exponent(amount: float | None, text: str) -> None:
    assert dollars(amount) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "1 box"), (0, "0 boxes"), (1_000_000, "1,000,000 boxes"), (2.5, "2.5 boxes"), (3600.0, "3,600 boxes")],
)
def test_a_quantity_has_its_plural_and_no_needless_digits(number: float, text: str) -> None:
    assert quantity(number, "box", "es") == text


def test_a_first_line_is_the_first_with_content_and_printable() -> None:
    assert first_line("\n  \n a\tb\x1b[2J \nsecond") == "a b\\x1b[2J"
    assert first_line("x" * 300, 10) == "x" * 10
    assert first_line(" \n ") == ""


def test_a_shortened_text_keeps_its_limit_and_shows_the_cut() -> None:
    assert [shorten("abcdef", limit) for limit in (6, 4)] == ["abcdef", "abc…"]


def test_the_longest_run_of_backticks_decides_the_marks_around_a_text() -> None:
    assert [longest_tick_run(text) for text in ("none", "a `b` c", "``` and `")] == [0, 1, 3]
