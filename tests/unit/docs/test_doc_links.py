"""The targets of the pages exist: links, files, and the tests behind promises."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"(?:rlm|sandbox_image|scripts|tests|docs|viewer)/[\w./*-]*")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code forges generate them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}: no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_every_file_and_test_that_a_page_names_is_there(page: Path) -> None:
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
    for words in _CODE.findall(page.read_text(encoding="utf-8")):
        if _FILE.fullmatch(words) and words != "rlm/runs":  # in the user's state directory
            assert any(chain(ROOT.glob(words.rstrip("/")), page.parent.glob(words))), f"{page.name} names {words}"
        if re.fullmatch(r"test_\w+(\.py)?", words):
            there = any(ROOT.rglob(f"tests/**/{words}")) if words.endswith(".py") else f"def {words}(" in sources
            assert there, f"{page.name} names {words}"


def test_every_guarantee_names_a_test() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    promises = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| promise |")]
    assert len(promises) > 20
    assert [line for line in promises if "`tests/" not in line.split(" | ")[-1]] == []
