"""`rlm exec` runs a script as `python FILE` would, in a sandbox."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys, time
print("out", sys.argv[1:], __name__)
print("err", file=sys.stderr)
match sys.argv[1:]:
    case ["fail"]:
        def inner(): return 1 / 0
        inner()
    case ["exit", number]:
        sys.exit(int(number))
    case ["words"]:
        sys.exit("some words")
    case ["hang"]:
        while True: pass
    case ["die"]:
        os._exit(0)
    case ["files"]:
        json.dump(open("given.txt").read(), open("answer.json", "w"))
        os.makedirs("more")
        open("more/one.txt", "w").write("1")
        os.symlink("/etc/passwd", "link")
    case ["look"]:
        print(os.listdir("."), sorted(os.environ))
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "given.txt").write_text("what was given")
    return tmp_path


def rlm(here: Path, *arguments: str, text: str = "") -> tuple[int, str, str]:
    command = [str(Path(sys.executable).with_name("rlm")), "exec", *arguments]
    done = subprocess.run(command, cwd=here, input=text, capture_output=True, text=True, check=False)
    assert 'Traceback (most recent call last):\n  File "/' not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 0, "err"),
        (["exit", "7"], 7, "err"),
        (["exit", "0"], 0, "err"),
        (["words"], 1, "some words"),
        (["fail"], 1, "in inner\n    def inner(): return 1 / 0"),
        (["hang"], 124, "used up its 1 seconds"),
        (["die"], 137, "exit code 0"),
    ],
)
def test_the_exit_status_is_the_scripts_own(here: Path, arguments: list[str], status: int, said: str) -> None:
    ended, out, err = rlm(here, "script.py", "--seconds", "1", "--", *arguments)
    assert ended == status
    assert out == f"out {arguments} __main__\n"
    assert said in err


def test_files_go_in_and_come_out(here: Path) -> None:
    status, _, err = rlm(
        here, "script.py", "--put", "given.txt", "--get", "answer.json", "--out-dir", "out", "--", "files"
    )
    assert (status, (here / "out/answer.json").read_text()) == (0, '"what was given"')
    assert "out/answer.json" in err
    status, _, err = rlm(here, "script.py", "--put", "given.txt", "--get", "*", "--out-dir", "all", "--", "files")
    found = {path.relative_to(here / "all").as_posix(): path.read_text() for path in (here / "all").rglob("*.*")}
    assert found == {"answer.json": '"what was given"', "more/one.txt": "1"}


def test_nothing_on_the_host_is_written_over_or_reached_through_a_link(here: Path) -> None:
    out = here / "out"
    out.mkdir()
    (out / "answer.json").symlink_to(here / "victim")
    arguments = ("script.py", "--put", "given.txt", "--get", "answer.json", "--out-dir", "out", "--", "files")
    status, _, err = rlm(here, *arguments)
    assert (status, "choose another folder" in err) == (2, True)
    assert not (here / "victim").exists()
    status, _, err = rlm(here, "script.py", "--put", "given.txt", "--get", "link", "--out-dir", "out", "--", "files")
    assert (status, "gives no file 'link'" in err) == (2, True)
    status, _, err = rlm(here, "script.py", "--get", "../../escape", "--out-dir", "out")
    assert (status, "not a plain relative path" in err) == (2, True)


def test_a_script_is_read_from_standard_input_and_sees_nothing_of_the_host(here: Path) -> None:
    status, out, _ = rlm(here, "-", "--", "look", text=SCRIPT)
    assert status == 0
    assert "['script.py']" in out
    assert "OPENAI" not in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.py"], "The script missing.py cannot be read"),
        (["script.py", "--put", "missing"], "There is no file missing"),
        (["script.py", "--put", "given.txt:../x"], "not a plain relative path"),
        (["script.py", "--runtime", "nothing"], "no runtime 'nothing'"),
    ],
)
def test_a_persons_mistake_is_one_sentence(here: Path, arguments: list[str], sentence: str) -> None:
    status, out, err = rlm(here, *arguments)
    assert status in (1, 2)
    assert out == ""
    assert sentence in err
    assert len([line for line in err.splitlines() if line.strip() and "known ways out of a container" not in line]) == 1
