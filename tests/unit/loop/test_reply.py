"""Replies are parsed exactly: thinking, cells and answers, whatever form models give them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.loop.answers import FinalAnswer, assigned_names
from rlm.loop.reply import last_answer, parse, prose_answer, read_leniently


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


# Everything that a reply is made of, in pieces that name where they stand: a marker in a piece shows who read it.
THOUGHTS = [
    "<think>{0}</think>",
    "<thinking>\n{0}\n</thinking>\n",
    "<reasoning>{0}</reasoning>",
    "[THINK]{0}[/THINK]\n",
]
CELLS = [
    "```repl\n{0} = 1\n```",
    "~~~python\n{0} = 1\n~~~",
    '```python\n{0} = """\n```json\n{{}}\n```\n"""\n```',
    "<code>\n{0} = 1\n</code>",
    '<tool_call>\n{{"name": "python", "arguments": {{"code": "{0} = 1"}}}}\n</tool_call>',
    "1. Look:\n    ```repl\n    {0} = 1\n    ```",
    "Here: ```repl\n{0} = 1\n```",
    "```repl\n{0} = 1```",
]
BLOCKS = [
    "```json\n{0}\n```",
    "```\n{0}\n```",
    "~~~text\nFINAL({0})\n~~~",
    "```bash\nFINAL({0})\n```",
    "> ```repl\n> {0}\n> ```",
]
PROSE = [
    "{0} is next.",
    "Use `FINAL({0})` to end.",
    "> FINAL({0})",
    "I say FINAL({0}) later.",
    "- {0} (a) and 'b",
    "| {0} |",
]
ANSWERS = [
    "FINAL({0})",
    "**FINAL({0})**",
    'FINAL("{0}")',
    "FINAL(See:\n```json\n{0}\n```\nend)",
    'FINAL("""{0}\n```repl\nx = 1\n```\n""")',
    "The answer is FINAL({0})",
    "Final({0} (in part))",
]
KINDS = {"thought": THOUGHTS, "cell": CELLS, "block": BLOCKS, "prose": PROSE, "answer": ANSWERS}


@st.composite
def replies(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """A reply, and the kind of the piece that each marker in it stands in."""
    kinds = ["thought"] * draw(st.integers(0, 2))
    kinds += draw(st.lists(st.sampled_from(["cell", "block", "prose", "answer"]), max_size=6))
    pieces, markers = [], {}
    for number, kind in enumerate(kinds):
        marker = f"marker_{number}"
        markers[marker] = kind
        pieces.append(draw(st.sampled_from(KINDS[kind])).format(marker))
    return "\n\n".join(pieces), markers


@given(replies())
def test_only_what_is_marked_as_code_runs_and_only_what_is_given_is_an_answer(
    reply: tuple[str, dict[str, str]],
) -> None:
    text, markers = reply
    turn = parse(text)
    code = "\n".join(turn.cells)
    read = {
        "thought": {marker for marker in markers if marker in turn.thinking},
        "cell": {marker for marker in markers if marker in code},
    }
    for kind, found in read.items():
        assert found == {marker for marker in markers if markers[marker] == kind}
    answers = [marker for marker in markers if markers[marker] == "answer"]
    if answers:
        assert turn.final is not None
        assert answers[-1] in turn.final.value
    else:
        assert turn.final is None
    assert not any(marker in turn.text for marker in markers if markers[marker] == "thought")


PIECES = [
    template.replace("{0}", "a").replace("{{", "{").replace("}}", "}") for kind in KINDS.values() for template in kind
]
SCRAPS = [
    "<think>",
    "</think>",
    "<|channel|>analysis<|message|>",
    "<|end|>",
    "```",
    "```repl",
    '"""',
    "'''",
    "FINAL(",
    ")",
    "\\boxed{",
]
SCRAPS += [
    "<code>",
    "</code>",
    "<tool_call>",
    "</tool_call>",
    "FINAL_VAR(",
    "~~~",
    "\n",
    "\n\n",
    "    ",
    "\t",
    "> ",
    "- ",
    "# ",
    "x",
    "(",
]


@given(st.lists(st.sampled_from(PIECES + SCRAPS), max_size=25).map("".join), st.booleans())
def test_no_pile_of_pieces_breaks_the_parser_or_adds_to_an_answer(reply: str, cut_off: bool) -> None:
    turn = parse(reply, cut_off=cut_off)
    assert all(cell.strip() for cell in turn.cells)
    if turn.final is not None:
        assert turn.final.value in reply
    assert last_answer(turn, []) or not turn.text
    for line in "\n".join(turn.cells).splitlines():
        assert line.strip() in reply


@pytest.mark.parametrize(
    ("head", "unit", "tail"),
    [
        ("", "<think>", ""),
        ("<think>", "</think> ", ""),
        ("", "x </think> y\n", ""),
        ("", "<|channel|>analysis<|message|>a<|end|>", ""),
        ("", "<|start|>", ""),
        ("```repl\n", '"""\n```\n', ""),
        ("```repl\n", "\"\"\"'''\n", "```repl"),
        ("```repl\n", '"""\n```\n```repl\n', ""),
        ("```repl\n", "#`", ""),
        ("", "<code>\n", ""),
        ("", "<code>x", ""),
        ("", "<tool_call>\n", ""),
        ("<tool_call>{", "</tool_call>\n", ""),
        ("<tool_call>", '{"a":', ""),
        ("<tool_call>", "<function=a>", ""),
        ("<tool_call>", "<arg_key>", ""),
        ("", "- FINAL(x)\n", ""),
        ("", "The answer is ", ""),
        ("", "\\boxed{", ""),
        ("", "1. x\n    ```json\n", ""),
        ("", "```json\n```repl\n", ""),
        ("", "Say ```repl\n", ""),
        ("FINAL(", "```json\n```\n", ")"),
        ("", "import a\n", ""),
        ("", "x = a.b(c)\n", "."),
        ("", "<code>x</code> y\n", ""),
        ("", "hi\n<|channel|>", "a"),
        ("hi\n<|channel|>", "a", ""),
        ("x ", "`", ""),
        ("I will ", ":", "\nfoo"),
        ("", " ", ""),
        ("", "<think></think>", ""),
        ("FINAL(" * 5_000, ")", ""),
        ("", "FINAL(", ")"),
    ],
)
def test_the_time_to_read_other_forms_grows_with_their_length_only(head: str, unit: str, tail: str) -> None:
    reply = head + unit * (100_000 // len(unit)) + tail
    began = time.thread_time()
    turn = read_leniently(parse(reply))
    last_answer(turn, [])
    prose_answer(turn)
    assert time.thread_time() - began < 3


@pytest.mark.parametrize(
    ("reply", "outputs", "answer"),
    [
        ('```json\n{"answer": 42}\n```', [], '{"answer": 42}'),
        ("Run this:\n```bash\nls -l\n```\nThen look.", [], "Run this:\n```bash\nls -l\n```\nThen look."),
        ("```text\nFINAL(77)\n```", [], "77"),
        ("```\n77\n```", [], "77"),
        ("```repl\nprint('77')\n```", ["77\n"], "77"),
        ("I will count.\n```repl\nprint(len(context))\n```", ["15000\n"], "15000"),
        ("It is 77.\n```repl\nprint('checked')\n```", ["checked\n"], "It is 77."),
        ("```repl\nx = 1\n```", [""], "```repl\nx = 1\n```"),
        ("FINAL: 42", [], "42"),
        ("**Final answer:** Paris", [], "Paris"),
        ("FINAL(The total is 42", [], "The total is 42"),
        ("<think>hmm, could be Rome</think>\n\nParis", [], "Paris"),
        ("The number is 7336346.", [], "The number is 7336346."),
        ("", [], ""),
    ],
)
def test_a_last_reply_without_a_final_answer_is_taken_for_what_it_says(
    reply: str, outputs: list[str], answer: str
) -> None:
    turn = read_leniently(parse(reply))
    assert (turn.final.value if turn.final else last_answer(turn, outputs)) == answer


@pytest.mark.parametrize(
    "unit", [" ", "for ", "a, ", "for x in ", "w", "a[b", "import a,", "x =", "a:", "for" + " " * 396 + "\n"]
)
def test_the_time_to_find_the_names_of_a_cell_grows_with_its_length_only(unit: str) -> None:
    code = "for" + unit * (100_000 // len(unit))
    began = time.thread_time()
    assigned_names(code)
    assert time.thread_time() - began < 3


def test_names_that_a_cell_assigns_are_known() -> None:
    code = "a = 1\nb: int = 2\nfor c in x: d += 1\nif e == 1: pass\nf, g = 1, 2\nh.i = 3"
    assert {"a", "b", "c", "f", "g"} <= assigned_names(code)
    assert not {"e", "i", "x"} & assigned_names(code)
