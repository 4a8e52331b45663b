"""A run as Markdown: no text escapes its fence or code span."""

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from helpers.attack_texts import ATTACKS, attacked_run
from rlm.trajectory.export.markdown import MAX_ITEMS, MAX_TEXT_CHARS, block, inline, markdown
from rlm.trajectory.run_reader import read_run

OURS = {
    "bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close", "paragraph_open", "paragraph_close",
    "heading_open", "heading_close", "inline", "fence", "text", "code_inline", "softbreak", "strong_open", "strong_close",
    "html_block",
}  # fmt: skip
FOLDS = {"<details><summary>Thinking (N characters)</summary>\n", "</details>\n"}  # the only HTML

texts = st.text(st.sampled_from("`~\n\r <>&*_[]()|\\#-.'\"a\x00\u202e\ud800"), max_size=60) | st.sampled_from(ATTACKS)


def tokens(text: str) -> list[Token]:
    """All tokens, inline ones included."""
    found: list[Token] = []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        found += [token, *(token.children or ())]
    return found


@given(texts)
def test_a_text_in_a_line_is_one_code_span(text: str) -> None:
    kinds = [token.type for token in tokens(f"before {inline(text)} after") if token.type != "inline"]
    code = ["code_inline", "text"] if text and inline(text) != "(empty)" else []
    assert kinds == ["paragraph_open", "text", *code, "paragraph_close"]


@given(texts)
def test_a_text_in_a_block_is_one_fence(text: str) -> None:
    kinds = [token.type for token in tokens(f"before\n\n{block(text)}\n\nafter") if token.type != "inline"]
    paragraph = ["paragraph_open", "text", "paragraph_close"]
    assert kinds == [*paragraph, "fence", *paragraph]


def test_a_run_full_of_attacks_adds_no_markup(tmp_path: Path) -> None:
    attacked_run(tmp_path)
    text = markdown(*read_run(tmp_path))
    found = tokens(text)
    assert {token.type for token in found} <= OURS
    assert {re.sub(r"[\d,]+", "N", token.content) for token in found if token.type == "html_block"} == FOLDS
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)


def test_a_run_reads_from_its_question_to_each_cell(run_dir: Path) -> None:
    text = markdown(*read_run(run_dir))
    headings = re.findall(r"^(#+ .*)$", text, re.MULTILINE)
    assert headings[1:7] == [
        "## Question",
        "## Answer",
        "## RLM `0`",
        "### Turn 1 of 30",
        "#### Cell 1: error, 0.00 s excluding waits",
        "### Turn 2 of 30",
    ]
    assert "- RLM `0.1` answered" in text
    assert "`llm of the root` → `<llm of the root>`" in text
    assert "8 model calls" in text


def test_long_texts_are_truncated_so_that_forges_render_the_file(run_dir: Path) -> None:
    assert MAX_TEXT_CHARS < len(block("x" * 10**6)) < MAX_TEXT_CHARS + 200
    trajectory, details = read_run(run_dir)
    trajectory.root.cells[2].calls *= 1_000
    assert markdown(trajectory, details).count("- `0.2` answered") == MAX_ITEMS


def test_thinking_is_folded_before_the_text_of_its_reply(thinking_run: Path) -> None:
    text = markdown(*read_run(thinking_run))
    folded = (
        "<details><summary>Thinking (17 characters)</summary>\n\n```text\nIs it 42?\n\nIt is.\n```\n\n</details>\n\n"
    )
    assert f"{folded}```text\nFINAL(42)\n```" in text


def test_a_run_without_thinking_has_no_fold(run_dir: Path) -> None:
    assert "<details>" not in markdown(*read_run(run_dir))
