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
    case ["tree"]:
        os.makedirs(".git/hooks")
        for name in (".git/config", ".git/hooks/post-checkout", ".envrc", "more-.x", "-rf", "seen", "unreadable"):
            open(name, "w").write(name)
        os.chmod("unreadable", 0)
        for number in range(20):
            open("large", "wb").write(bytes(6 << 20))
            os.path.exists(f"link{number:02}") or os.link("large", f"link{number:02}")
        sys.exit(7)
    case ["status", status]:
        class Lies(int):
            __and__ = lambda self, other: status
            __bool__ = lambda self: False
        raise SystemExit(Lies(5))
    case ["forge", status]:
        frame = sys._getframe()
        while "FINAL" not in frame.f_globals: frame = frame.f_back
        final = frame.f_globals["FINAL"]
        vars(final.__self__)["_final_answer"] = lambda: status.encode()
        sys.exit(0)
    case ["input"]:
        import subprocess
        print(repr(sys.stdin.readline()), sys.stdin.read())
        os.lseek(0, 0, 0)
        print(subprocess.run([sys.executable, "-c", "print(len(open(0, 'rb').read()))"], capture_output=True).stdout)
    case ["look"]:
        print(os.listdir("."), sorted(os.environ))
"""


ENDS = """
import atexit, concurrent.futures, os, pickle, sys, threading, time
class Mine: pass
def late(name):
    time.sleep(0.3)
    pickle.dumps(Mine())
    open(name, "w").write("x")
    print(name)
def last():
    print("at exit", os.path.exists("thread"), os.path.exists("pool"))
    open("last", "w").write("x")
    sys.exit(9)
atexit.register(last)
threading.Thread(target=late, args=["thread"]).start()
threading.Thread(target=time.sleep, args=[1000], daemon=True).start()
concurrent.futures.ThreadPoolExecutor().submit(late, "pool")
sys.stdout = open(1, "w", closefd=False)
print("main")
match sys.argv[1:]:
    case ["exit"]: sys.exit(7)
    case ["fail"]: 1 / 0
"""
FORKS = """
import os, sys
if os.fork() == 0:
    print("child")
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.wait()[1]))
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
    ("arguments", "status", "message"),
    [
        ([], 0, "err"),
        (["exit", "7"], 7, "err"),
        (["exit", "0"], 0, "err"),
        (["words"], 1, "some words"),
        (["fail"], 1, "in inner\n    def inner(): return 1 / 0"),
        (["hang"], 124, "ran longer than 1 seconds"),
        (["die"], 137, "exit code 0"),
    ],
)
def test_the_exit_status_is_the_scripts_own(here: Path, arguments: list[str], status: int, message: str) -> None:
    ended, out, err = rlm(here, "script.py", "--seconds", "1", "--", *arguments)
    assert ended == status
    assert out == f"out {arguments} __main__\n"
    assert message in err


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["exit"], 7), (["fail"], 1)])
def test_a_script_ends_when_its_threads_have_ended_and_its_exit_handlers_have_run(
    here: Path, arguments: list[str], status: int
) -> None:
    (here / "ends.py").write_text(ENDS)
    ended, out, _ = rlm(here, "ends.py", "--get", "thread", "--get", "last", "--out-dir", "out", "--", *arguments)
    assert (ended, sorted(out.split("\n"))) == (status, ["", "at exit True True", "main", "pool", "thread"])
    assert {path.name for path in (here / "out").iterdir()} == {"thread", "last"}


def test_a_script_with_invalid_syntax_is_reported_as_python_does(here: Path) -> None:
    (here / "no.py").write_text("1 +")
    status, _, err = rlm(here, "no.py")
    assert status == 1
    assert '  File "no.py", line 1\n    1 +\n' in err
    assert "<cell" not in err


def test_a_process_that_a_script_forks_ends_with_its_own_status(here: Path) -> None:
    (here / "forks.py").write_text(FORKS)
    assert rlm(here, "forks.py")[:2] == (0, "child\n3\n")


POOL = """
from concurrent.futures import ProcessPoolExecutor
def f(x): return x + 1
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool: print(list(pool.map(f, [1, 2])))
"""
SPAWN = """
import functools, locale, multiprocessing, sys
def f(x): say("child", x)
say = functools.partial(print, file=sys.stdout, flush=True)
if __name__ == "__main__":
    sys.stdout.write("text, "); sys.stdout.buffer.write(b"bytes, "); say("text")
    process = multiprocessing.get_context("spawn").Process(target=f, args=[1])
    process.start(); process.join()
    print(process.exitcode, locale.setlocale(locale.LC_ALL, ""), end="")
"""


def test_a_script_that_needs_semaphores_fails_with_what_to_use_instead(here: Path) -> None:
    (here / "pool.py").write_text(POOL)
    status, out, err = rlm(here, "pool.py")
    assert (status, out) == (1, "")
    assert "OSError: this sandbox has no semaphores" in err.splitlines()[-1]


def test_a_script_may_spawn_a_process_that_imports_it(here: Path) -> None:
    (here / "spawn.py").write_text(SPAWN)
    assert rlm(here, "spawn.py")[:2] == (0, "text, bytes, text\nchild 1\n0 C.UTF-8")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_arrives_whatever_the_encoding_of_standard_output(
    here: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    (here / "snow.py").write_text("print('é☃')")
    command = [str(Path(sys.executable).with_name("rlm")), "exec", "snow.py"]
    done = subprocess.run(command, cwd=here, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "é☃\n".encode(encoding, "backslashreplace"))


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
    assert (status, "choose another folder" in err) == (1, True)
    assert not (here / "victim").exists()
    status, _, err = rlm(here, "script.py", "--put", "given.txt", "--get", "link", "--out-dir", "out", "--", "files")
    assert (status, "could not read 'link'" in err) == (1, True)
    status, _, err = rlm(here, "script.py", "--get", "../../escape", "--out-dir", "out")
    assert (status, "not a plain relative path" in err) == (2, True)


def test_fetching_all_files_skips_names_that_programs_interpret_and_needs_a_new_folder(here: Path) -> None:
    """Git, direnv and shells interpret `.git/config`, `.envrc` and, through patterns, `-rf`."""
    for folder in ((), ("--out-dir", "."), ("--out-dir", "given.txt")):
        status, out, err = rlm(here, "script.py", "--get", "*", *folder, "--", "tree")
        assert (status, out) == (2, "")
        assert "choose another folder" in err or "set --out-dir to a new or empty folder" in err
    (here / "empty").mkdir()
    status, _, err = rlm(here, "script.py", "--get", "*", "--out-dir", "empty", "--", "tree")
    assert status == 7
    assert "4 files were skipped because a name starts with . or -" in err
    assert {path.name for path in (here / "empty").iterdir()} >= {"seen", "more-.x"}
    assert not any(path.name.startswith((".", "-")) for path in (here / "empty").rglob("*"))
    status, _, _ = rlm(here, "script.py", "--get", ".git/config", "--", "tree")  # requested by name
    assert (status, (here / ".git/config").read_text()) == (7, ".git/config")


def test_all_files_have_a_total_limit_and_one_that_cannot_be_fetched_stops_no_other(here: Path) -> None:
    """Hard links take no space in the sandbox, but would on the host."""
    status, _, err = rlm(here, "script.py", "--get", "*", "--out-dir", "out", "--", "tree")
    assert status == 7
    assert "could not read 'unreadable': Permission denied" in err
    assert (here / "out/seen").read_text() == "seen"
    assert 50 << 20 < sum(path.stat().st_size for path in (here / "out").iterdir()) <= 64 << 20
    assert "has more than" in err


@pytest.mark.long
def test_files_that_are_too_many_to_be_listed_are_counted(here: Path) -> None:
    (here / "many.py").write_text("for number in range(12_000): open(f'{number:05}', 'w').close()")
    status, _, err = rlm(here, "many.py", "--get", "*", "--out-dir", "out")
    line = next(line for line in err.splitlines() if "more than the list can hold" in line)
    skipped = int(line.split()[1].replace(",", ""))
    assert status == 0
    assert skipped + len(list((here / "out").iterdir())) in (12_000, 12_001)  # the script itself was listed or not


def test_no_script_can_choose_an_invalid_status(here: Path) -> None:
    assert rlm(here, "script.py", "--", "status", "²")[0] == 5
    ended, _, err = rlm(here, "script.py", "--", "forge", "256")
    assert ended == 1
    assert "invalid exit status" in err


def test_a_script_and_its_children_read_the_given_standard_input(here: Path) -> None:
    assert "'' \n" in rlm(here, "script.py", "--", "input", text="not passed on")[1]
    for given, text in (("-", "one\ntwo"), ("given.txt", "")):
        (here / "given.txt").write_text("one\ntwo")
        status, out, _ = rlm(here, "script.py", "--input", given, "--", "input", text=text)
        assert (status, out.splitlines()[1:]) == (0, ["'one\\n' two", "b'7\\n'"])
    status, out, _ = rlm(here, "-", "--input", "given.txt", "--", "input", text=SCRIPT)
    assert (status, out.splitlines()[1:]) == (0, ["'one\\n' two", "b'7\\n'"])


def test_a_script_is_read_from_standard_input_and_sees_nothing_of_the_host(here: Path) -> None:
    status, out, _ = rlm(here, "-", "--", "look", text=SCRIPT)
    assert status == 0
    assert "['script.py']" in out
    assert "OPENAI" not in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.py"], "Cannot read the script missing.py"),
        (["script.py", "--put", "missing"], "No such file: missing"),
        (["script.py", "--put", "given.txt:../x"], "not a plain relative path"),
        (["script.py", "--runtime", "nothing"], "no runtime 'nothing'"),
        (["script.py", "--input", "missing"], "Cannot read the input missing"),
        (["-", "--input", "-"], "cannot be both the script and its input"),
        (["script.py", "--get", "/etc/passwd"], "not a plain relative path"),
    ],
)
def test_a_usage_error_is_one_sentence(here: Path, arguments: list[str], sentence: str) -> None:
    status, out, err = rlm(here, *arguments)
    assert status in (1, 2)
    assert out == ""
    assert sentence in err
    assert len([line for line in err.splitlines() if line.strip() and "known container escapes" not in line]) == 1
