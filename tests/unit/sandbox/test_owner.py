"""A container counts as orphaned only if its process is certainly gone."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlm.sandbox.docker.owner import is_orphan, owner_labels


def labels(**changes: str) -> dict[str, str]:
    return owner_labels() | {f"rlm.owner.{name}": value for name, value in changes.items()}


def test_the_sandboxes_of_a_living_process_are_not_orphans() -> None:
    assert not is_orphan(owner_labels())
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    assert not is_orphan(labels(pid="1", start=started))


def test_the_sandboxes_of_an_ended_process_are_orphans() -> None:
    code = "from rlm.sandbox.docker.owner import owner_labels; print(owner_labels())"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    ended = ast.literal_eval(output)
    assert ended["rlm.owner.pid"] != str(os.getpid())
    assert is_orphan(ended)


def test_a_reused_process_id_does_not_protect_orphans() -> None:
    assert is_orphan(labels(start="1"))


@pytest.mark.parametrize("fact", ["boot", "pidns", "uid"])
def test_containers_of_another_user_container_or_machine_are_never_touched(fact: str) -> None:
    assert not is_orphan(labels(start="1", **{fact: "another"}))


def test_containers_with_missing_or_invalid_labels_are_never_touched() -> None:
    assert not is_orphan({})
    assert not is_orphan({"rlm.owner.pid": "4000000"})
    assert not is_orphan(labels(pid="none", start="1"))
    assert not is_orphan(labels(start=""))
