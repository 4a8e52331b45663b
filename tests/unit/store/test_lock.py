"""One process at a time works on a run, on any platform."""

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm import ConfigError
from rlm.store.directory import default_root
from rlm.store.lock import ensure_unlocked, is_locked, run_lock

UNIX_ONLY = ("fcntl", "termios", "tty", "pty", "pwd", "grp", "resource", "readline", "curses")


def test_the_package_imports_without_posix_modules() -> None:
    hide = f"import sys; sys.modules.update(dict.fromkeys({UNIX_ONLY!r}))"
    names = "Orchestrator, Sandbox, SyncSandbox, Session, Run, OpenAIModel"
    subprocess.run([sys.executable, "-c", f"{hide}; from rlm import {names}; import rlm.orchestrator"], check=True)


def test_a_second_process_gets_no_lock_and_an_error_that_names_the_holder(tmp_path: Path) -> None:
    holder = "import sys; from pathlib import Path; from rlm.store.lock import run_lock\n"
    holder += "with run_lock(Path(sys.argv[1])): print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", holder, tmp_path], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert is_locked(tmp_path)
        for take in (ensure_unlocked, lambda directory: run_lock(directory).__enter__()):
            with pytest.raises(ConfigError, match=f"is running, in process {process.pid}: wait for it"):
                take(tmp_path)
        process.kill()
        process.wait()
        with run_lock(tmp_path):
            assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    ensure_unlocked(tmp_path)


def test_checking_a_lock_never_prevents_taking_it(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        pass
    done = threading.Event()

    def look() -> bool:
        return is_locked(tmp_path)

    def look_on() -> None:
        while not done.is_set():
            is_locked(tmp_path)

    with ThreadPoolExecutor() as pool:
        others = [pool.submit(look_on) for _ in range(2)]
        assert not any(pool.submit(look).result() for _ in range(50))
        with run_lock(tmp_path):
            assert is_locked(tmp_path)
        done.set()
        for other in others:
            other.result()


def test_checking_a_lock_changes_nothing(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        before = (tmp_path / "lock").read_bytes()
        assert is_locked(tmp_path)
        assert (tmp_path / "lock").read_bytes() == before == f"\n{os.getpid()}".encode()
    assert not is_locked(tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("writable", [True, False])
def test_a_look_needs_no_more_than_network_file_systems_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    """NFS locks a file exclusively only if it is open for writing."""
    fcntl = pytest.importorskip("fcntl")
    with run_lock(tmp_path):
        pass
    monkeypatch.setattr(os, "access", lambda path, mode: writable)

    def lock_on_nfs(file: int, *, blocking: bool) -> bool:
        if writable and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return True

    monkeypatch.setattr("filelock.lock_descriptor", lock_on_nfs)
    assert not is_locked(tmp_path)


def test_runs_are_in_the_state_directory_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "rlm" / "runs"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_root() == Path.home() / ".local" / "state" / "rlm" / "runs"
