"""Replies are parsed exactly: thinking, cells and answers, whatever form models give them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.loop.answers import FinalAnswer
from rlm.loop.reply import parse


def final_of(reply: str) -> str | None:
    final = parse(reply).final
    return None if final is None else final.value


def test_only_blocks_marked_repl_or_python_are_cells() -> None:
    reply = "Look:\n```repl\na = 1\n```\n```json\n{}\n```\n~~~python\nb = 2\n~~~\n```\nplain\n```\n"
    assert parse(reply).cells == ("a = 1", "b = 2")


def test_a_longer_fence_holds_shorter_ones() -> None:
    assert parse('````repl\ntext = """\n```\nx\n```\n"""\n````').cells == ('text = """\n```\nx\n```\n"""',)


def test_a_block_without_an_end_runs_unless_the_reply_was_cut_off() -> None:
    reply = "```repl\na = 1\n```\n```repl\nprint(a"
    assert parse(reply).cells == ("a = 1", "print(a")
    assert parse(reply, cut_off=True).cells == ("a = 1",)


def test_windows_line_ends_do_not_hide_a_block() -> None:
    assert parse("```repl\r\na = 1\r\n```\r\n").cells == ("a = 1\r",)


def test_a_block_in_a_list_runs_without_the_indentation_of_its_fence() -> None:
    reply = '1. Look:\n   ```python\n   if context:\n       n = 1\n  x = """\n\n y"""\n   ```\nAnd then?'
    turn = parse(reply)
    assert turn.cells == ('if context:\n    n = 1\nx = """\n\ny"""',)
    assert turn.prose == "1. Look:\n\nAnd then?"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("FINAL(42)", "42"),
        ("I am sure.\nFINAL(42)\nThat is all (really).", "42"),
        ('FINAL("a (b")', "a (b"),
        ("FINAL('it\\'s')", "it's"),
        ("FINAL(It's (nearly) done)", "It's (nearly) done"),
        ("FINAL(a smile :) and more)", "a smile :) and more"),
        ("FINAL(first :)\nsecond)", "first :)\nsecond"),
        ("FINAL(sad :()", "sad :("),
        ("FINAL(line one\nline two)", "line one\nline two"),
        ("FINAL(call FINAL(x) to end)", "call FINAL(x) to end"),
        ("FINAL(1)\nNo, wait.\nFINAL(2)", "2"),
        ('FINAL("""two\nlines""")', "two\nlines"),
        ("FINAL(f(x) = (x + 1))", "f(x) = (x + 1)"),
        ("FINAL()", ""),
    ],
)
def test_a_final_answer_in_the_text_is_taken_whole(reply: str, answer: str) -> None:
    assert final_of(reply) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("FINAL(42)\n\nWhy:\n1) the first file says so\n2) the second too", "42"),
        ("FINAL(42)\n1) the first file says so\n2) the second too", "42"),
        ("FINAL(42) since\n1) the first file says so\n2) the second too", "42"),
        ("FINAL(Paris)\n\nI checked a) the index and b) the text.", "Paris"),
        ("FINAL(Paris) as a) the index and b) the text say.", "Paris"),
        ("FINAL(Paris) (and I am glad) :)", "Paris"),
        ("FINAL(Paris)\r\nGlad to help :)\r\n", "Paris"),
        ("FINAL(good :) and more)\nBye ;-)", "good :) and more"),
        ("FINAL(good :) as said\n\nThe range is [0, 1)", "good :"),
        ("FINAL(sad :()\n\nWhy (in short): it is (really).", "sad :("),
        ("FINAL(sad :()\n\nI checked a) the index and b) the text.", "sad :("),
        ("FINAL(sad :()\nNo, wait.\nFINAL(glad)", "glad"),
        ("FINAL(x in (0, 1])\nI checked (twice).", "x in (0, 1]"),
    ],
)
def test_a_final_answer_does_not_take_in_the_text_behind_it(reply: str, answer: str) -> None:
    assert final_of(reply) == answer


@pytest.mark.parametrize(
    "answer",
    [
        "two reasons: 1) cost 2) time",
        "two reasons:\n1) cost (much)\n\n2) time",
        "two reasons:\n  a) cost\n  b) time",
        "x in [0, 1) or x > 2",
        "[0, 1) and [2, 3)",
        "it works :)",
        "sad :( (a bit)\n\n- item (a)\n\nall in all",
    ],
)
def test_a_final_answer_may_hold_closing_brackets_without_a_partner(answer: str) -> None:
    assert final_of(f"FINAL({answer})\n\nI am sure (really): 1) and 2) agree.") == answer


@pytest.mark.parametrize(
    "answer",
    [
        '"""a""", """b"""',
        "'''a''', '''b'''",
        '"""a""" + ' + "+".join(["1"] * 20_000) + ' + """b"""',
        '"""a""" + ' + "-" * 200_000 + '1 + """b"""',
        '"""a""", ' + "(" * 150 + "1" + ")" * 150 + ', """b"""',
        '"a", "b"',
    ],
    ids=["two", "two of the other quotes", "a long sum", "many signs", "many brackets", "two short"],
)
def test_only_a_single_string_literal_is_unquoted(answer: str) -> None:
    assert final_of(f"FINAL({answer})") == answer


def test_a_string_literal_may_hold_its_own_quotes_escaped() -> None:
    assert final_of(r'FINAL("""a \""" b "" c""")') == 'a """ b "" c'


@pytest.mark.parametrize(
    ("head", "unit", "tail"),
    [
        ("FINAL(", '\\"""\n', ""),
        ("FINAL(", "\\'''\n", ""),
        ("FINAL(", '\\"', ""),
        ("FINAL(", "\\'", ""),
        ("FINAL(", '"', ""),
        ("FINAL(", "\"'", ""),
        ("FINAL(", "(", ""),
        ("FINAL(", ")", ""),
        ("FINAL(", "()", ""),
        ("FINAL(", ":) ", "."),
        ("FINAL(x", " ", ")"),
        ("FINAL(x)", "\n\t x", ""),
        ("FINAL(x) ", "1) ", ""),
        ("FINAL(\n", "1) x\n", ""),
        ("", "FINAL(\n", ""),
        ("", "FINAL()\n", ""),
        ("", "FINAL(()\n", ""),
        ("", "FINAL(')'\n", ""),
        ("", 'FINAL("""a)"""\n', ""),
        ("", 'FINAL(\\""")\n', ""),
        ("", 'FINAL(\\")\\\n', ""),
        ("FINAL((", "\"\\\nFINAL(')'\"\n", ""),
        ("", 'FINAL(((("""\n)\nFINAL("""\n))))\n', ""),
        ("```", " ", "`"),
        ("```", " x", "`"),
        ("", "`", ""),
        ("", "```\n", ""),
        ("", "```repl x\n", ""),
        ("````repl\n", "```\n", ""),
        ("", "~~~\n`", ""),
        ("   ```repl\n", "   \r\n", ""),
    ],
)
def test_the_time_to_read_a_reply_grows_with_its_length_only(head: str, unit: str, tail: str) -> None:
    reply = head + unit * (300_000 // len(unit)) + tail
    began = time.thread_time()  # CPU time: independent of the load of the machine
    parse(reply)
    assert time.thread_time() - began < 3  # usually a tenth; quadratic time takes minutes


@pytest.mark.parametrize(
    "reply",
    [
        "```repl\nFINAL(wrong)\n```",
        "```text\nFINAL(wrong)\n```",
        "> FINAL(wrong)",
        "Use `FINAL(wrong)` to end.",
        "I will say FINAL(wrong) later.",
        "    FINAL(wrong)",
        '"FINAL(wrong)"',
        "FINALLY(wrong)",
        "FINAL (wrong)",
        "FINAL(never closed",
        "FINAL(never closed\n\n1) wrong\n2) wrong",
        "FINAL(cut off while it quotes\nFINAL(wrong)\nand",
    ],
)
def test_text_that_resembles_a_final_answer_is_not_one(reply: str) -> None:
    assert final_of(reply) is None


def test_a_final_variable_is_a_name_with_or_without_quotes() -> None:
    expected = FinalAnswer(kind="variable", value="result")
    assert parse("FINAL_VAR(result)").final == parse('FINAL_VAR("result")').final == expected


# The promise of the text form: an answer without unpaired brackets or quotes arrives byte for byte.
@given(st.text(alphabet=st.characters(exclude_characters="()`~'\"\\>", exclude_categories=["Cs", "Cc", "Z"])))
def test_any_answer_without_brackets_or_quotes_arrives_as_written(answer: str) -> None:
    assert final_of(f"Done.\nFINAL({answer})") == answer.strip()


@given(st.text())
def test_any_string_literal_arrives_byte_for_byte(answer: str) -> None:
    literal = '"' + "".join(f"\\U{ord(character):08x}" for character in answer) + '"'
    assert final_of(f"FINAL({literal})") == answer


@given(st.text(alphabet=st.sampled_from(list("FINAL_VAR()`~ \n\"'\\>ax"))))
def test_no_reply_breaks_the_parser(reply: str) -> None:
    turn = parse(reply)
    assert all(cell.strip() for cell in turn.cells)
