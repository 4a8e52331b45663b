"""Sandboxes that are killed from outside, or run out of memory, anywhere in a tree."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.batch_tree import right_answer, run_batch_tree
from helpers.containers import containers
from helpers.measured import Record, count
from rlm import Message, OpenAIModel, Orchestrator, SandboxConfig, ScriptedModel
from rlm.config import MIB
from rlm.testing import FakeProvider, Fault

pytestmark = pytest.mark.anyio


def kill(node: str) -> None:
    (container,) = set(containers(f"rlm.node={node}")) & set(containers(f"rlm.owner.pid={os.getpid()}"))
    subprocess.run(["docker", "kill", container], check=True, capture_output=True)


async def test_a_child_whose_sandbox_is_killed_in_the_middle_of_its_batch_gets_a_new_one_with_its_variables(
    tmp_path: Path, record_property: Record
) -> None:
    tree = await run_batch_tree(tmp_path, lambda: kill("0.2"))
    done = tree.done
    assert (done.answer, done.stop_reason) == (right_answer(), "final")
    assert [(event.node, event.restored) for event in tree.lost] == [("0.2", True)]
    assert done.sandboxes == 5
    assert tree.calls_lost == 0
    assert done.resent_calls <= 4  # calls of the batch that were in flight
    assert all("text b" in text for text in tree.again)
    count(record_property, faults=1, lost=tree.calls_lost, resent_calls=done.resent_calls)


async def test_a_parent_whose_sandbox_is_killed_while_its_children_work_loses_only_calls_in_flight(
    tmp_path: Path, record_property: Record
) -> None:
    tree = await run_batch_tree(tmp_path, lambda: kill("0"))
    done = tree.done
    assert (done.answer, done.stop_reason) == (right_answer(), "final")
    assert [(event.node, event.restored) for event in tree.lost] == [("0", True)]
    assert tree.calls_lost == 0
    assert done.resent_calls <= 12
    assert max(tree.asked.values()) <= 2
    count(record_property, faults=1, lost=tree.calls_lost, resent_calls=done.resent_calls)


async def test_a_cell_that_loses_its_sandbox_twice_is_reported_and_earlier_variables_stay(
    tmp_path: Path, record_property: Record
) -> None:
    kills = 0
    shown: list[str] = []

    def plays(messages: Sequence[Mapping[str, Any]], model: str) -> str | Fault:
        nonlocal kills
        if model == "leaf":
            kills += 1
            kill("0")
            return Fault(sent="nothing", then="hang")
        shown.append(messages[-1]["content"])
        cells = ["kept = 7", "llm_query('kill')", "FINAL(kept)"]
        return f"```repl\n{cells[len(shown) - 1]}\n```"

    async with FakeProvider(plays) as server:
        root, leaf = (OpenAIModel(name, base_url=server.base_url) for name in ("root", "leaf"))
        done = await Orchestrator(model=root, sub_model=leaf, run_root=tmp_path).acompletion("text", "go")
    assert (done.answer, kills, done.sandboxes) == ("7", 2, 3)
    assert re.search("The sandbox was lost during this cell, twice .* all variables are as they were", shown[-1])
    count(record_property, faults=2)


async def test_a_cell_that_is_killed_like_the_one_before_it_runs_in_a_new_sandbox_with_its_variables(
    tmp_path: Path, record_property: Record
) -> None:
    """Files of the first cell may be the cause: they leave no memory for cells, and only a new sandbox has none."""
    dies = "import os\nif os.path.exists('/tmp/mark'): os.kill(os.getpid(), 9)\nopen('/tmp/mark', 'w')\n"
    cells = ["kept = 7", f"{dies}os.kill(os.getpid(), 9)", f"{dies}kept += 1", "FINAL(kept)"]
    played = iter(f"```repl\n{cell}\n```" for cell in cells)
    model = ScriptedModel(lambda messages: next(played))
    done = await Orchestrator(model=model, run_root=tmp_path).acompletion("text", "go")
    assert (done.answer, done.sandboxes) == ("8", 2)
    count(record_property, faults=2)


async def test_a_cell_that_exhausts_the_containers_memory_is_reported_and_the_next_one_runs(
    tmp_path: Path, record_property: Record
) -> None:
    """Files in memory survive every process that the kernel can kill to free memory."""
    cells = [
        "kept = 7",
        "with open('/tmp/all', 'wb', buffering=0) as file:\n    while True: file.write(bytes(1 << 16))",
        "FINAL(kept)",
    ]
    shown: list[str] = []

    def plays(messages: Sequence[Message]) -> str:
        shown.append(messages[-1].content)
        return f"```repl\n{cells[len(shown) - 1]}\n```"

    config = SandboxConfig(memory_bytes=128 * MIB, tmp_bytes=512 * MIB)
    done = await Orchestrator(model=ScriptedModel(plays), run_root=tmp_path, sandbox=config).acompletion("text", "go")
    assert done.answer == "7"
    assert "memory" in shown[-1]
    assert "variables are as they were before this cell" in shown[-1]
    count(record_property, faults=1)
