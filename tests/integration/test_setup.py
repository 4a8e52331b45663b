"""Setup: repeatable, with clear errors; and an image without tools for an attack."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from rlm.sandbox.docker.build import ensure_image
from rlm.sandbox.docker.image import DIGEST_LABEL, image_name, source_digest

pytestmark = pytest.mark.serial

REPOSITORY = Path(__file__).parents[2]
TARGETS = {"help", "setup", "image", "niah", "test", "test-unit", "test-long", "check", "format", "bench", "clean"}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, without the variables of a surrounding make."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=inherited | environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_help_is_the_default_and_names_every_target() -> None:
    done = run("make", "--no-print-directory")
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split()[1] for line in done.stdout.splitlines()} >= TARGETS


def test_niah_passes_on_what_is_set_and_nothing_else() -> None:
    command = run("make", "-n", "niah", "MODEL=gpt-5", "DEPTH=2", LINES="50").stdout.splitlines()[-1]
    assert command.split() == [".venv/bin/rlm", "niah", "--model", "'gpt-5'", "--depth", "'2'"]
    command = run("make", "-n", "niah", "SUB_MODEL=m", "TRIALS=2", "LINES=9", "SEED=1", "OUT=a b").stdout.splitlines()[
        -1
    ]
    options = "--sub-model 'm' --trials '2' --lines '9' --seed '1' --out 'a b'"
    assert " ".join(command.split()) == f".venv/bin/rlm niah {options}"


def test_make_eval_passes_on_the_variables_that_are_set() -> None:
    command = run("make", "-n", "eval", "RESUME=a b", "N=50", "METHODS=keyword").stdout.splitlines()[-1]
    assert " ".join(command.split()) == ".venv/bin/rlm eval --resume 'a b' -n 50"
    command = run("make", "-n", "eval", "TASKS=multihop", "METHODS=keyword", "SEED=3").stdout.splitlines()[-1]
    assert " ".join(command.split()) == ".venv/bin/rlm eval multihop --method keyword --seed '3'"


def test_a_second_set_up_finds_everything_done_within_two_seconds() -> None:
    assert run("make", "image").returncode == 0
    began = time.monotonic()
    done = run("make", "image")
    assert time.monotonic() - began <= 2
    assert done.returncode == 0
    assert (done.stdout + done.stderr).splitlines()[-1] == f"The image {image_name()} is up to date."
    assert "Installing" not in done.stdout + done.stderr


def test_an_engine_that_was_named_and_does_not_answer_is_never_replaced(tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/docker.sock"
    done = run("scripts/engine.sh", DOCKER_HOST=host)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: No Docker engine answers at DOCKER_HOST={host}: start it there, or unset DOCKER_HOST, and try again.\n"
    )


def test_a_build_without_an_engine_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = run(".venv/bin/python", "-m", "rlm.sandbox.docker.build", DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "No Docker engine answers" in done.stderr


def test_lock_files_name_no_index_and_no_place() -> None:
    for name in ("requirements.lock", "requirements-openai2.lock", "sandbox_image/requirements.txt"):
        text = (REPOSITORY / name).read_text()
        assert "--hash=sha256:" in text
        for trace in ("://", "--index", "--extra-index", "--find-links", " @ ", "file:"):
            assert trace not in text, (name, trace)


@pytest.fixture(scope="module")
def image_files() -> Iterator[list[tarfile.TarInfo]]:
    """All paths in the image's file system."""
    ensure_image()
    container = run("docker", "create", image_name()).stdout.strip()
    try:
        export = subprocess.run(["docker", "export", container], check=True, capture_output=True).stdout
    finally:
        run("docker", "rm", container)
    with tarfile.open(fileobj=io.BytesIO(export)) as archive:
        yield archive.getmembers()


def test_the_image_holds_no_setuid_or_setgid_file(image_files: list[tarfile.TarInfo]) -> None:
    assert [file.name for file in image_files if file.mode & 0o6000] == []


def test_the_only_program_in_the_image_is_python(image_files: list[tarfile.TarInfo]) -> None:
    folders = {"bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"}
    programs = {Path(file.name).name for file in image_files if str(Path(file.name).parent) in folders}
    assert programs
    assert all(name.startswith("python3") or name == "python" for name in programs), programs
    executable = {Path(file.name).name for file in image_files if file.isreg() and file.size and file.mode & 0o111}
    assert {name for name in executable if not name.startswith("ld-linux")} <= programs


def test_the_image_holds_no_package_database_and_no_installer(image_files: list[tarfile.TarInfo]) -> None:
    parts = {part for file in image_files for part in Path(file.name).parts}
    assert parts.isdisjoint({"apt", "dpkg", "rpm", "apk", "perl", "perl5", "gcc", "pip", "ensurepip", "setuptools"})


def test_only_the_scratch_folders_are_writable(image_files: list[tarfile.TarInfo]) -> None:
    writable = {file.name.rstrip("/") for file in image_files if not file.issym() and file.mode & 0o022}
    assert writable <= {"tmp", "workspace"}
    assert {file.uid for file in image_files} == {0}


def test_the_image_carries_the_digest_and_sets_an_unprivileged_user() -> None:
    ensure_image()
    template = f'{{{{index .Config.Labels "{DIGEST_LABEL}"}}}} {{{{.Config.User}}}} {{{{.Config.WorkingDir}}}}'
    done = run("docker", "image", "inspect", "--format", template, image_name())
    assert done.stdout.split() == [source_digest(), "65532:65532", "/workspace"]


def test_every_module_of_the_image_is_compiled(image_files: list[tarfile.TarInfo]) -> None:
    names = {file.name for file in image_files}
    for source in (Path(name) for name in names if name.startswith("opt/rlm/rlm") and name.endswith(".py")):
        assert any(name.startswith(f"{source.parent}/__pycache__/{source.stem}.") for name in names), source


def test_a_wheel_holds_the_page_and_all_that_builds_the_image(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], cwd=REPOSITORY, check=True, timeout=50)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    assert {"rlm/trajectory/view/assets/viewer.js", "rlm/trajectory/view/assets/viewer.css"} <= names
    sources = {
        path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "sandbox_image").rglob("*") if path.is_file()
    }
    assert {f"rlm/_{name}" for name in sources if "__pycache__" not in name} <= names
