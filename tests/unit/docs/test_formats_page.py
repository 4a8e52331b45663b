"""docs/events-and-formats.md matches the sources."""

import dataclasses
import re
from pathlib import Path
from typing import get_args

import rlm.otel
from helpers.small_tree import small_tree
from rlm.events import Event
from rlm.otel.attributes import MAX_TEXT_CHARS
from rlm.store.entries import SCHEMA
from rlm.trajectory.event_reader import EVENT_TYPES
from rlm.trajectory.export.formats import ExportFormat
from rlm.types import CellResult, Outcome, Usage

PAGE = (Path(__file__).parents[3] / "docs" / "events-and-formats.md").read_text()
ROOT = Path(__file__).parents[3]


def names_in(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def rows(heading: str) -> list[list[str]]:
    """The rows of the first table below this head, cell by cell."""
    lines = PAGE[PAGE.index(heading) :].splitlines()[2:]
    table = lines[: next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def paragraph(start: str) -> str:
    return PAGE[PAGE.index(f"\n\n{start}") + 2 :].partition("\n\n")[0]


def test_every_event_is_there_with_its_fields() -> None:
    common = {field.name for field in dataclasses.fields(Event)}
    documented = {names_in(row[0])[0]: names_in(row[1]) for row in rows("| event | fields |")}
    assert documented == {
        name: [field.name for field in dataclasses.fields(kind) if field.name not in common]
        for name, kind in EVENT_TYPES.items()
    }
    assert {names_in(row[0])[0] for row in rows("| field | type |")} == common


def test_usage_and_result_are_documented_with_their_fields() -> None:
    assert names_in(paragraph("`usage` is"))[1:] == [field.name for field in dataclasses.fields(Usage)]
    documented = names_in(paragraph("`result` is"))[1:]
    assert documented == ["outcome", *get_args(Outcome), *[field.name for field in dataclasses.fields(CellResult)][1:]]


def test_every_format_of_exports_is_there() -> None:
    assert {names_in(row[0])[0] for row in rows("| format | what it is |")} == set(ExportFormat)


def test_the_journals_schema_is_the_one_it_has() -> None:
    assert re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) == [SCHEMA.strip() + "\n"]


def test_the_files_of_a_run_directory_are_there(tmp_path: Path) -> None:
    run_dir = small_tree(run_root=tmp_path).completion("the context", "Is it the root?").run_dir
    documented = {name for row in rows("| file | holds |") for name in names_in(row[0])}
    assert {file.name for file in run_dir.iterdir()} <= documented


def test_the_attributes_of_spans_are_those_that_are_set() -> None:
    sources = "".join(path.read_text() for path in Path(rlm.otel.__file__).parent.glob("*.py"))
    spans = PAGE[PAGE.index("## Spans") :]
    pattern = r"(?:gen_ai|rlm)\.[a-z_.]+|error\.type"
    assert set(re.findall(rf"`({pattern})`", spans)) == set(re.findall(rf'"({pattern})"', sources))
    assert f"{MAX_TEXT_CHARS:,} characters" in spans
