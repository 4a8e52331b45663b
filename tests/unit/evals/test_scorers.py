"""Every scoring rule, with answers that are almost correct, in another form, or correct by a quirk of the rule."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.evals.corpus.dates import read_date
from rlm.evals.scorers import SCORERS, f1


def scored(scorer: str, output: str, *answers: str) -> tuple[float, float]:
    result = SCORERS[scorer](output, answers)
    return round(result.strict, 4), round(result.lax, 4)


@pytest.mark.parametrize(
    ("output", "answers", "strict"),
    [
        ("It is 1234567.", ["1234567"], 1),
        ("brave-harbor", ["Brave-Harbor"], 1),
        ("1234567 and 7654321", ["1234567", "7654321", "1111111", "2222222"], 0.5),
        ("1,234,567", ["1234567"], 0),  # RULER has no separators
        ("11234567", ["1234567"], 1),  # and a part of a longer number counts
        ("", ["1234567"], 0),
    ],
)
def test_recall_is_the_share_of_answers_that_are_part_of_the_output(
    output: str, answers: list[str], strict: float
) -> None:
    assert scored("recall", output, *answers) == (strict, strict)


def test_facts_want_each_number_beside_its_name_and_lax_counts_the_numbers() -> None:
    answers = ("ada=1234567", "ben=7654321")
    assert scored("facts", "ben: 7,654,321; ada: 1234567", *answers) == (1, 1)
    assert scored("facts", "ada=7654321, ben=1234567", *answers) == (0, 1)
    assert scored("facts", "ada=1234567", *answers) == (0, 0.5)
    assert scored("facts", "1234567", "1234567") == (1, 1)
    assert scored("facts", "11234567", "1234567") == (0, 0)


@pytest.mark.parametrize(
    ("output", "gold", "strict", "lax"),
    [
        ("Label: numeric value", "numeric value", 1, 1),
        ("**Label: [numeric value]**", "numeric value", 1, 1),
        ("numeric value", "numeric value", 1, 1),  # no colon, short: the whole output
        ("The least common is numeric value", "numeric value", 0, 1),  # no colon, long: the last word
        ("I counted them all, and it is location", "location", 1, 1),
        ("Label: Location", "location", 0, 1),  # case matters
        ("Label: location.", "location", 0, 1),
        ("Label: location\nI am sure: yes", "location", 0, 1),  # the last colon
        ("User: 12345", "12345", 1, 1),
        ("User: 123456", "12345", 0, 1),  # lax is fooled by a longer number
        ("Answer: March 2023", "March 2023", 1, 1),
        ("", "location", 0, 0),
        (" " * 30, "location", 0, 0),
    ],
)
def test_an_oolong_answer_is_what_follows_the_last_colon(output: str, gold: str, strict: float, lax: float) -> None:
    assert scored("oolong", output, gold) == (strict, lax)


@pytest.mark.parametrize(
    ("output", "gold", "strict", "lax"),
    [
        ("Answer: entity is less common than location", "less common than", 1, 1),
        ("Answer: entity is more common than location", "less common than", 0, 0),
        ("Answer: entity is the same frequency as location", "same frequency as", 1, 1),
        ("Answer: less common than", "less common than", 1, 1),
        ("Answer: less common", "less common than", 1, 0),
        ("Answer: x is less common", "less common than", 0, 0),  # the known quirk: short, so not reduced
        ("Answer: entity is less common before Jul 01, 2022", "less common", 1, 1),
        ("Answer: entity is the same frequency before 2022-07-01", "the same frequency", 1, 1),
        ("entity is less common than location", "less common than", 0, 1),  # no colon: the last word
    ],
)
def test_a_long_oolong_comparison_is_reduced_to_its_phrase_and_a_short_one_is_not(
    output: str, gold: str, strict: float, lax: float
) -> None:
    assert scored("oolong", output, gold) == (strict, lax)


@pytest.mark.parametrize(
    ("output", "gold", "strict", "lax"),
    [
        ("Answer: 155", "155", 1, 1),
        ("Answer: **155**", "155", 1, 1),
        ("Answer: 156", "155", 0.75, 0),
        ("Answer: 145", "155", 0.0563, 0),
        ("155", "155", 1, 1),
        ("Answer: 1,155", "1155", 0, 0),  # OOLONG has no separators
        ("Answer: 155 lines", "155", 0, 1),
        ("There are 155 of them in all 155", "155", 1, 1),
        ("Answer: 15.5", "155", 0, 0),
        ("Answer: " + "9" * 5000, "155", 0, 0),
        ("Answer: ²", "2", 0, 0),
        ("Answer: -3", "0", 0.4219, 0),
    ],
)
def test_an_oolong_number_scores_three_quarters_to_the_power_of_its_error(
    output: str, gold: str, strict: float, lax: float
) -> None:
    assert scored("oolong_number", output, gold) == (strict, lax)


@pytest.mark.parametrize(
    ("output", "strict", "lax"),
    [
        ("Date: 07/01/2022", 1, 1),
        ("Date: [07/01/2022]", 1, 1),
        ("Date: 7/1/2022", 1, 0),
        ("Date: Jul 01, 2022", 1, 0),
        ("Date: July 1st, 2022", 1, 0),
        ("Date: 1 July 2022", 1, 0),
        ("Date: 2022-07-01", 1, 0),
        ("Date: 2022-07-01 00:00:00", 0, 0),  # the last colon is in the time
        ("Date: 01/07/2022", 0, 0),  # the seventh of January
        ("Date: 07/01/2023", 0, 0),
        ("Date: 07/32/2022", 0, 0),
        ("Date: Jux 01, 2022", 0, 0),
        ("Date: July 2022", 0, 0),
    ],
)
def test_an_oolong_date_is_correct_in_any_format(output: str, strict: float, lax: float) -> None:
    assert scored("oolong_date", output, "07/01/2022") == (strict, lax)


def test_a_date_is_read_only_if_complete() -> None:
    assert read_date("Sept 3, 2024") == read_date("3rd of September 2024") == date(2024, 9, 3)
    assert read_date("Feb 29, 2024") == date(2024, 2, 29)
    for text in ("Feb 29, 2023", "Mayor 3, 2024", "3 2024", "", "00/01/2024"):
        assert read_date(text) is None


@pytest.mark.parametrize(
    ("output", "gold", "strict", "lax"),
    [
        ("(11111, 22222)\n(11111, 33333)", ["(11111, 22222)", "(11111, 33333)"], 1, 1),
        ("(22222, 11111), (33333,11111)", ["(11111, 22222)", "(11111, 33333)"], 1, 1),  # unordered
        ("(11111, 22222) (22222, 11111)", ["(11111, 22222)"], 1, 1),  # once
        ("(11111, 22222)", ["(11111, 22222)", "(11111, 33333)"], 0.6667, 0.6667),
        ("(11111, 22222)\n(11111, 44444)", ["(11111, 22222)", "(11111, 33333)"], 0.5, 0.5),
        ("[['11111', '22222']]", ["(11111, 22222)"], 0, 1),
        ("User 11111 and User 22222", ["(11111, 22222)"], 0, 1),
        ("1. (11111, 22222)\n2. (11111, 33333)", ["(11111, 22222)", "(11111, 33333)"], 1, 1),
        ("11111-22222\n11111-33333", ["(11111, 22222)", "(11111, 33333)"], 0, 1),
        ("(1, 2)\n(3, 4)", ["(1, 2)", "(3, 4)"], 1, 1),  # short numbers, in brackets
        ("There are none.", [], 1, 1),
        ("", [], 1, 1),
        ("", ["(11111, 22222)"], 0, 0),
        ("(11111, 22222)", [], 0, 0),
        ("(11111, 11111)", ["(11111, 22222)"], 0, 0),
    ],
)
def test_pairs_score_f1_in_whatever_order_and_both_sets_empty_is_right(
    output: str, gold: list[str], strict: float, lax: float
) -> None:
    assert scored("pairs", output, *gold) == (strict, lax)


@pytest.mark.parametrize(
    ("output", "strict", "lax"),
    [
        ("Marden Bridge", 1, 1),
        ("the marden bridge.", 1, 1),
        ("I searched.\n**Answer: Marden  Bridge**", 1, 1),
        ("It is Marden Bridge, as two documents say.", 0, 1),
        ("Marden Bridgeport", 0, 0),
        ("New Marden Bridge", 0, 1),
        ("Answer:", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_phrase_is_correct_alone_and_laxly_if_its_words_occur(output: str, strict: float, lax: float) -> None:
    assert scored("phrase", output, "Marden Bridge") == (strict, lax)


@pytest.mark.parametrize(
    ("output", "gold", "right"),
    [
        ("A", "A", True),
        ("Answer: a.", "A", True),
        ("The", "A", False),
        ("...", "A", False),
        ("", "A", False),
        ("", "+", False),
        ("+", "+", True),
        ("<", ">", False),
        ("C++", "C++", True),
        ("It is C++.\nC++.", "c++", True),
        ("C#", "C++", False),
        ("C", "C++", False),
        ("1 + 1", "1+1", True),
    ],
)
def test_a_phrase_of_only_an_article_or_sign_is_distinguished_from_others(output: str, gold: str, right: bool) -> None:
    assert scored("phrase", output, gold) == (right, right)


@pytest.mark.parametrize(
    ("output", "strict", "lax"),
    [
        ("1234", 1, 1),
        ("1,234", 1, 1),
        ("Answer: 1 234", 0, 0),  # a space separates two numbers
        ("There are 1234 calls.", 1, 1),
        ("There are 1234 calls in 7 files.", 0, 1),
        ("7 files\n1234", 1, 1),
        ("1234.0", 1, 1),
        ("12345", 0, 0),
        ("-1234", 0, 0),
        ("none", 0, 0),
    ],
)
def test_a_number_is_correct_if_the_last_line_has_no_other(output: str, strict: float, lax: float) -> None:
    assert scored("number", output, "1234") == (strict, lax)


@pytest.mark.parametrize(
    ("output", "gold", "strict", "lax"),
    [
        ("load, save", ["save", "load"], 1, 1),
        ("I looked.\nAnswer: `load`, `save`", ["load", "save"], 1, 1),
        ("- load\n- save", ["load", "save"], 1, 1),
        ("1. load\n2. save", ["load", "save"], 1, 1),
        ("['load', 'save']", ["load", "save"], 1, 1),
        ("load, load, save", ["load", "save"], 1, 1),
        ("load", ["load", "save"], 0, 0.6667),
        ("load, save, sort", ["load", "save"], 0, 0.8),
        ("load_all, save", ["load", "save"], 0, 0.5),
        ("none", [], 1, 1),
        ("Answer: []", [], 1, 1),
        ("", [], 1, 1),
        ("none", ["load"], 0, 0),
        ("load", [], 0, 0),
    ],
)
def test_names_are_a_set_that_may_be_empty(output: str, gold: list[str], strict: float, lax: float) -> None:
    assert scored("names", output, *gold) == (strict, lax)


def test_lines_want_the_same_order_and_lax_does_not() -> None:
    assert scored("lines", "a 1\nb 2\n", "a 1", "b 2") == (1, 1)
    assert scored("lines", "```\na 1\n\nb 2\n```", "a 1", "b 2") == (1, 1)
    assert scored("lines", "b 2\na 1", "a 1", "b 2") == (0, 1)
    assert scored("lines", "a 1\na 1", "a 1", "b 2") == (0, 0.5)
    assert scored("lines", "a 1", "a 1", "b 2", "c 3") == (0, 0.5)
    assert scored("lines", "") == (1, 1)


@pytest.mark.parametrize(
    ("output", "strict", "lax"),
    [
        ("The correct answer is (B)", 1, 1),
        ("**The correct answer is B**", 1, 1),
        ("The correct answer is (B). It is not A.", 1, 0),
        ("B", 0, 1),
        ("I think that it is (B)", 0, 1),
        ("The correct answer is (C)", 0, 0),
        ("A B C", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_choice_is_read_from_the_sentence_that_was_asked_for(output: str, strict: float, lax: float) -> None:
    assert scored("choice", output, "B") == (strict, lax)


def test_f1_of_two_empty_sets_is_one() -> None:
    assert f1(set(), set()) == 1
    assert f1({"a"}, set()) == f1(set(), {"a"}) == 0


ANSWERS = {
    "recall": ("1234567", "7654321"),
    "facts": ("ada=1234567", "ben=7654321"),
    "oolong": ("less common than",),
    "oolong_number": ("12",),
    "oolong_date": ("07/01/2022",),
    "pairs": ("(11111, 22222)",),
    "phrase": ("Marden Bridge",),
    "number": ("12",),
    "names": ("load", "save"),
    "lines": ("a 1", "b 2"),
    "choice": ("B",),
}


@pytest.mark.parametrize("scorer", SCORERS)
@given(
    output=st.text()
    | st.text("0123456789,.:()[]*-/\n ABCD²٣")
    | st.lists(
        st.sampled_from(["Answer:", "12", "(11111, 22222)", "\n", " ", "load", "B", "less common", "July 1"])
    ).map("".join)
)
def test_whatever_a_model_says_scores_from_0_to_1(scorer: str, output: str) -> None:
    result = SCORERS[scorer](output, ANSWERS[scorer])
    assert 0 <= result.strict <= 1
    assert 0 <= result.lax <= 1


@pytest.mark.parametrize(
    ("output", "gold", "strict"),
    [
        ("Answer: \u22125", "5", 0),  # U+2212
        ("Answer: \u22125", "-5", 1),
        ("Answer: \u20135", "-5", 1),  # an en dash
        ("Answer: \uff0d\uff15", "-5", 1),  # full width
        ("(-5)", "-5", 1),
        ("Answer: room-7", "7", 1),  # a hyphen behind a word is no minus
        ("Answer: room-7", "-7", 0),
        ("Answer: 5-7", "7", 0),  # a range is two numbers
        ("Answer: 5\u20137", "-7", 0),
        ("Answer: 1.5e6", "1500000", 1),
        ("Answer: 1.5E+06", "1500000", 1),
        ("Answer: 1.5\u00d710^6", "1500000", 1),
        ("Answer: 1.5 \u00d7 10⁶", "1500000", 1),
        (r"Answer: $1.5 \times 10^{6}$", "1500000", 1),
        ("Answer: 1.5 * 10**6", "1500000", 1),
        ("Answer: 1e-3", "0.001", 1),
        ("Answer: 1.5\u00d710⁻³", "0.0015", 1),
        ("Answer: 1.5e6", "1.5", 0),
        ("Answer: 10^3", "10", 0),  # no number before it: two numbers, as in `10 to the 3`
        ("Answer: 1,500,000", "1500000", 1),
        ("Answer: 1\u202f500\u00a0000", "1500000", 1),
        ("Answer: \uff11\uff15", "15", 1),
        ("Answer: 10 m²", "10", 1),  # a raised digit belongs to the unit
        ("Answer: 9007199254740993", "9007199254740992", 0),  # the same as floats
        ("Answer: **42**", "42", 1),
        (r"\boxed{42}", "42", 1),
        (r"$\boxed{42}$.", "42", 1),
        ("It is:\n```\n42\n```", "42", 1),
        ("It is:\n```text\n42\n~~~\n", "42", 1),
        ("The year 2024:\n```\n42\n```", "2024", 0),
    ],
)
def test_a_number_is_the_same_in_every_notation_and_another_is_never_right(
    output: str, gold: str, strict: float
) -> None:
    assert SCORERS["number"](output, [gold]).strict == strict


@pytest.mark.parametrize(
    ("output", "gold", "strict"),
    [
        ("The city is:\n```\nParis\n```", "Paris", 1),
        ("**Answer:** Paris", "Paris", 1),
        ("Answer: `Paris`", "Paris", 1),
        ("Answer: “Paris”", "Paris", 1),
        (r"$\boxed{\text{Paris}}$", "Paris", 1),
        ("Answer: Zoe\u0308", "Zoë", 1),  # decomposed
        ("Answer: Zoë", "Zoe\u0308", 1),
        ("Answer: New\u00a0York", "New York", 1),
        ("Answer: Zoe", "Zoë", 0),
        ("```\nParis\n```\nor Rome", "Paris", 0),
        ("", "Paris", 0),
        ("```\n```", "Paris", 0),
        ('Answer: "Paris" or "Rome"', "Paris", 0),
    ],
)
def test_a_phrase_is_read_without_the_marks_around_it(output: str, gold: str, strict: float) -> None:
    assert SCORERS["phrase"](output, [gold]).strict == strict


def test_letters_are_the_same_composed_or_not() -> None:
    assert scored("recall", "It was Zoe\u0308.", "Zoë") == (1, 1)
    assert scored("names", "Answer:\n```\nZoe\u0308, Ada\n```", "Zoë", "Ada") == (1, 1)
    assert scored("lines", "```\nZoe\u0308\n```", "Zoë") == (1, 1)
