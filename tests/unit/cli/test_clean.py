"""`rlm clean` lists, asks and removes nothing in use, of another user or of this version."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rlm.cli.commands import leftovers as cleaning
from rlm.config import Limits, SandboxConfig
from rlm.errors import EngineUnavailable
from rlm.sandbox.docker.image import image_name
from rlm.sandbox.values import encode
from rlm.store.contexts import store_context
from rlm.store.database import Database
from rlm.store.directory import default_root
from rlm.store.entries import FILE_NAME as JOURNAL
from rlm.store.entries import SCHEMA, SCHEMA_VERSION
from rlm.store.lock import run_lock
from rlm.store.record import ModelRecord, RunRecord, State
from rlm.store.runs import list_runs

DAY = 86_400
RLM = Callable[..., Any]  # the fixture


@dataclass
class FakeEngine:
    """The part of an engine that `rlm clean` uses."""

    containers: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refusal: str = ""

    async def orphans(self) -> list[dict[str, Any]]:
        return self.containers

    async def unused_images(self) -> list[dict[str, Any]]:
        return self.images

    async def remove(self, container: str, *, seconds: float) -> str:
        self.removed.append(container)
        return self.refusal

    async def remove_image(self, image: str) -> str:
        self.removed.append(image)
        return self.refusal


def image(name: str, days: float) -> dict[str, Any]:
    return {"Id": f"sha256:{name}", "RepoTags": [name], "Created": time.time() - days * DAY, "Size": 48_700_000}


def unreadable(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Make a file unreadable, as for a user who is not root."""
    really = os.open

    def refuse(path: str | Path, *arguments: int, **options: Any) -> int:
        if Path(path) == file:
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *arguments, **options)

    monkeypatch.setattr("os.open", refuse)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine(
        containers=[{"Id": "c" * 64, "Names": ["/rlm-lost"]}],
        images=[image(image_name(), 30), image("rlm-sandbox:new", 6), image("rlm-sandbox:old", 8)],
    )
    monkeypatch.setattr("rlm.sandbox.docker.engine.default_engine", lambda: engine)
    return engine


def make_journal(directory: Path) -> None:
    Database(directory / JOURNAL, schema=SCHEMA, version=SCHEMA_VERSION).close()


def make_run(name: str, *, days: float, state: State = "finished") -> Path:
    directory = default_root() / name
    (directory / "replays").mkdir(parents=True)
    models = {0: ModelRecord(name="m", server=None)}
    record = RunRecord(
        run_id=name, state=state, query="q", depth=0, models=models, limits=Limits(), sandbox=SandboxConfig()
    )
    record.save(directory)
    with run_lock(directory):
        make_journal(directory)
    (directory / "events.jsonl").write_text("x" * 1_000_000)
    for path in (directory, *directory.rglob("*")):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return directory


def test_orphans_and_idle_images_of_other_versions_are_removed_and_runs_are_not(engine: FakeEngine, rlm: RLM) -> None:
    kept = make_run("old", days=900)
    ended = rlm("clean", "--yes")
    assert (ended.status, ended.out) == (0, "")
    assert engine.removed == ["c" * 64, "sha256:rlm-sandbox:old"]
    assert ended.err == (
        "container  rlm-lost, orphaned\n"
        "image      rlm-sandbox:old, of another version, 49 MB\n"
        "Removed: 1 container and 1 image, 49 MB.\n"
    )
    assert kept.is_dir()


def test_an_age_removes_older_runs_and_images(engine: FakeEngine, rlm: RLM) -> None:
    kept = [make_run("new", days=2), make_run("alive", days=30, state="running")]
    touched = make_run("touched", days=30)
    (touched / "view.html").write_text("")
    gone = [make_run("old", days=4), make_run("failed", days=30, state="failed"), make_run("damaged", days=30)]
    (gone[2] / "run.json").write_text("{}")
    os.utime(gone[2] / "run.json", (0, 0))
    with run_lock(kept[1]):
        for path in (kept[1] / "lock", kept[1]):
            os.utime(path, (time.time() - 30 * DAY,) * 2)
        ended = rlm("clean", "--yes", "--older-than", "3d", "--json")
    printed = json.loads(ended.out)
    assert [each["target"] for each in printed["removed"] if each["kind"] == "run"] == sorted(map(str, gone))
    assert 3_000_000 < printed["bytes"] - 2 * 48_700_000 < 3_100_000
    assert [directory.is_dir() for directory in (*kept, touched, *gone)] == [True] * 3 + [False] * 3
    assert "failed, failed, resumable, 30 days old" in ended.err
    assert engine.removed == ["c" * 64, "sha256:rlm-sandbox:new", "sha256:rlm-sandbox:old"]


def test_runs_of_other_users_and_links_are_kept(
    engine: FakeEngine, rlm: RLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = make_run("old", days=30)
    away = tmp_path / "away"
    shutil.move(directory, away)
    directory.symlink_to(away)
    assert rlm("clean", "--yes", "--older-than", "1d").status == 0
    assert (away / "run.json").is_file()
    make_run("others", days=30)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert rlm("clean", "--yes", "--older-than", "1d").status == 0
    assert (default_root() / "others").is_dir()


def test_a_run_that_is_resumed_meanwhile_is_kept(engine: FakeEngine) -> None:
    directory = make_run("old", days=30)
    ((found,), _) = cleaning.old_runs(default_root(), older_than=DAY)
    with run_lock(directory):
        assert cleaning._remove_run(Path(found.target)) == "it is in use"
    assert directory.is_dir()


def test_folders_that_are_no_runs_stay_and_are_named(engine: FakeEngine, rlm: RLM, here: Path) -> None:
    """Folders of other programs, one with a copy of a record."""
    others = [here / "project", here / "project/notes", here / "project/locked"]
    for folder in others:
        folder.mkdir()
        (folder / "thesis.tex").write_text("years")
        (folder / "run.json").write_text('{"run_id": "mine"}')
    shutil.copy(make_run("old", days=30) / "run.json", others[1])
    (others[2] / "lock").write_text("\n123")
    for path in (here / "project", *(here / "project").rglob("*")):
        os.utime(path, (0, 0))
    ended = rlm("clean", "--yes", "--older-than", "1d", "--runs", str(here), "--json")
    assert ended.status == 0
    assert [each["kind"] for each in json.loads(ended.out)["removed"]] == ["container", "image", "image"]
    for folder in others:
        assert (folder / "thesis.tex").is_file()
        assert f"rlm: Skipped {folder}: it has a run.json, but may not be a run.\n" in ended.err


def test_the_folder_of_runs_itself_is_no_run(engine: FakeEngine, rlm: RLM) -> None:
    directory = make_run("old", days=30)
    assert rlm("clean", "--yes", "--older-than", "1d", "--runs", str(directory)).status == 0
    assert (directory / "run.json").is_file()


def test_viewing_a_run_does_not_change_its_age(engine: FakeEngine, rlm: RLM) -> None:
    """Listing opens its journal, which leaves files beside it."""
    directory = make_run("old", days=30)
    record = RunRecord.load(directory)
    value = encode("the context")
    replace(record, context=store_context(directory, value, None, threading.Event())).save(directory)
    for name in ("run.json", "context.text"):
        os.utime(directory / name, (time.time() - 30 * DAY,) * 2)
    assert rlm("runs").status == 0
    assert (directory / "journal.sqlite-shm").exists()
    assert rlm("clean", "--yes", "--older-than", "29d").status == 0
    assert not directory.exists()


def test_a_run_inside_a_run_is_removed_with_it_and_counted_once(engine: FakeEngine, rlm: RLM) -> None:
    outer, inner = make_run("b", days=30), make_run("b/runs/a", days=30)
    with run_lock(inner):
        os.utime(inner / "lock", (0, 0))
        assert "1 run" not in rlm("clean", "--yes", "--older-than", "1d").err
    os.utime(inner / "lock", (0, 0))
    assert "1 run" in rlm("clean", "--yes", "--older-than", "1d").err
    assert not outer.exists()


def test_a_run_that_another_process_removes_meanwhile_counts_as_removed(
    engine: FakeEngine, rlm: RLM, monkeypatch: Any
) -> None:
    directories = [make_run("a", days=30), make_run("b", days=30)]
    found, _ = cleaning.old_runs(default_root(), older_than=DAY)
    listed = list(list_runs(default_root()))
    shutil.rmtree(directories[0])
    remove_tree = shutil.rmtree

    def too_late(directory: Path) -> None:
        remove_tree(directory)
        raise FileNotFoundError(2, "No such file or directory", str(directory / "lock"))

    monkeypatch.setattr("shutil.rmtree", too_late)
    assert [cleaning._remove_run(Path(each.target)) for each in found] == ["", ""]
    assert not directories[1].exists()
    monkeypatch.setattr(cleaning, "list_runs", lambda root: listed)
    assert cleaning.old_runs(default_root(), older_than=DAY) == ([], [])


def test_a_run_whose_lock_cannot_be_read_stays_and_is_named(engine: FakeEngine, rlm: RLM, monkeypatch: Any) -> None:
    directory = make_run("old", days=30)
    unreadable(monkeypatch, directory / "lock")
    ended = rlm("clean", "--yes", "--older-than", "1d")
    assert (ended.status, directory.is_dir()) == (0, True)
    assert f"rlm: Skipped {directory}: Cannot read the lock of the run in {directory}" in ended.err


def test_nothing_is_removed_without_a_terminal_to_confirm_on(engine: FakeEngine, rlm: RLM) -> None:
    ended = rlm("clean")
    assert (ended.status, engine.removed) == (2, [])
    assert "Nothing was removed: no terminal to confirm on (1 container and 1 image, 49 MB). Use --yes." in ended.err


@pytest.mark.parametrize(("reply", "status", "count"), [("y", 0, 2), ("n", 1, 0)])
def test_a_person_is_asked(
    engine: FakeEngine, rlm: RLM, monkeypatch: pytest.MonkeyPatch, reply: str, status: int, count: int
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, err: reply == "y")
    assert rlm("clean").status == status
    assert len(engine.removed) == count


def test_items_that_cannot_be_removed_are_named(engine: FakeEngine, rlm: RLM) -> None:
    engine.refusal = "it is in use"
    ended = rlm("clean", "--yes", "-q")
    assert (ended.status, ended.out) == (1, "")
    assert "Cannot remove image rlm-sandbox:old, of another version: it is in use" in ended.err


def test_without_an_engine_old_runs_are_removed_nevertheless(
    engine: FakeEngine, rlm: RLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none() -> list[dict[str, Any]]:
        raise EngineUnavailable("No engine.")

    monkeypatch.setattr(engine, "orphans", none)
    directory = make_run("old", days=30)
    ended = rlm("clean", "--yes", "--older-than", "1d")
    assert (ended.status, directory.exists()) == (0, False)
    assert "Skipped containers and images: No engine." in ended.err


def test_clean_says_if_nothing_is_to_be_removed(engine: FakeEngine, rlm: RLM) -> None:
    engine.containers, engine.images = [], []
    ended = rlm("clean")
    assert (ended.status, ended.out, ended.err) == (0, "", "Nothing to remove.\n")
