"""docs/reliability.md matches the results of `make reliability`."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def rows(page: str, head: str) -> dict[str, list[str]]:
    """The rows of the table with this head, by their first cell."""
    text = (DOCS / page).read_text()
    lines = text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {first: rest for first, *rest in cells}


def test_the_measured_sums_are_those_of_the_latest_run_each_with_its_command() -> None:
    measured = rows("reliability.md", "| measured |")
    sums = rows("reliability-results.md", "| total |")
    assert {name: figure for name, (figure, _) in measured.items()} == {
        name: figure for name, (figure,) in sums.items()
    }
    assert all("make reliability" in command or "pytest tests/faults" in command for _, command in measured.values())


def test_every_fault_test_passed_and_no_call_was_lost() -> None:
    results = (DOCS / "reliability-results.md").read_text()
    ((passed, all_of_them),) = re.findall(r"\| tests passed \| (\d+) of (\d+) \|", results)
    assert passed == all_of_them
    assert rows("reliability-results.md", "| total |")["calls lost"] == ["0"]
