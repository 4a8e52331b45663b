"""An image belongs to exactly the sources that it was built from, at any path."""

import ast
import shutil
import sys
from pathlib import Path

import pytest

from rlm.errors import EngineUnavailable
from rlm.sandbox.docker.image import Sources, find_sources, source_digest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources that the digest covers, in the layout of a checkout."""
    shutil.copytree(REPOSITORY / "sandbox_image", tmp_path / "sandbox_image")
    shutil.copytree(REPOSITORY / "rlm/protocol", tmp_path / "rlm/protocol")
    return tmp_path


def test_the_digest_is_a_sha256_of_the_sources_alone_and_not_of_their_place(checkout: Path) -> None:
    digest = find_sources(checkout / "rlm").digest()
    assert digest == source_digest()
    assert len(bytes.fromhex(digest)) == 32


@pytest.mark.parametrize(
    "name",
    [
        "rlm/protocol/messages.py",
        "sandbox_image/rlm_guest/supervisor.py",
        "sandbox_image/Dockerfile",
        "sandbox_image/assemble.py",
        "sandbox_image/requirements.txt",
    ],
)
def test_a_change_of_any_source_changes_the_digest(checkout: Path, name: str) -> None:
    before = find_sources(checkout / "rlm").digest()
    with (checkout / name).open("a") as file:
        file.write("\n")
    assert find_sources(checkout / "rlm").digest() != before


def test_a_new_or_renamed_source_changes_the_digest(checkout: Path) -> None:
    sources = find_sources(checkout / "rlm")
    digests = [sources.digest()]
    guest = sources.image / "rlm_guest"
    (guest / "new.py").touch()
    digests.append(sources.digest())
    (guest / "new.py").rename(guest / "other.py")
    digests.append(sources.digest())
    assert len(set(digests)) == 3


def test_compiled_files_and_notes_are_no_sources(checkout: Path) -> None:
    sources = find_sources(checkout / "rlm")
    before = sources.digest()
    (sources.image / "rlm_guest/__pycache__").mkdir(exist_ok=True)
    (sources.image / "rlm_guest/__pycache__/worker.cpython-311.pyc").write_bytes(b"x")
    (sources.image / "notes.txt").touch()
    assert sources.digest() == before


def test_an_installed_package_finds_the_sources_that_it_carries(checkout: Path) -> None:
    (checkout / "sandbox_image").rename(checkout / "rlm/_sandbox_image")
    sources = find_sources(checkout / "rlm")
    assert sources == Sources(protocol=checkout / "rlm/protocol", image=checkout / "rlm/_sandbox_image")
    assert sources.digest() == source_digest()


def test_a_package_without_its_sources_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="reinstall rlm"):
        find_sources(tmp_path / "rlm")


def test_the_context_holds_the_protocol_without_the_host() -> None:
    names = find_sources().files()
    assert {"protocol/__init__.py", "protocol/connection.py", "protocol/messages.py"} <= set(names)
    assert all(name.startswith(("protocol/", "rlm_guest/")) or "/" not in name for name in names)
    assert list(names) == sorted(names)


def imported(file: Path) -> set[str]:
    """The modules that a file imports by absolute name."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


@pytest.mark.parametrize("name", [name for name in find_sources().files() if name.endswith(".py")])
def test_the_guest_imports_only_the_standard_library_msgpack_and_the_protocol(name: str) -> None:
    allowed = sys.stdlib_module_names | {"msgpack"}
    for module in imported(find_sources().files()[name]):
        assert module.split(".")[0] in allowed or module.startswith("rlm.protocol"), module
