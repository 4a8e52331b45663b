"""The site of the documentation builds without a warning, asks no other server, and has every public name."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlm

ROOT = Path(__file__).parents[3]

# What a browser fetches by itself: sources of elements, stylesheets, and URLs in styles. Links do not count.
_LOADED = re.compile(
    r"""\ssrc=["']?https?:|<link\s[^>]*href=["']?https?:(?![^>]*rel=["']?canonical)|url\(["']?https?:"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_loads_nothing_from_other_servers(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert pages
    for page in [*pages, *site.rglob("*.css")]:
        found = _LOADED.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page.name} loads {found and found[0]}"


def test_each_public_name_has_a_place_in_the_api(site: Path) -> None:
    directives = [
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for name in re.findall(r"^::: rlm\.(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        if not (ROOT / "rlm" / f"{name}.py").exists()
    ]
    assert sorted(directives) == sorted(dir(rlm))
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    assert [name for name in dir(rlm) if f'id="rlm.{name}"' not in text] == []


def test_each_message_that_troubleshooting_quotes_is_one_of_the_sources() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| message contains .*?(?=\n\n)", page, re.DOTALL | re.MULTILINE)
    quoted = [quote for table in tables for quote in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)]
    texts = {
        node.value
        for file in (ROOT / "rlm").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert quoted
    assert [quote for quote in quoted if not any(quote in text for text in texts)] == []
