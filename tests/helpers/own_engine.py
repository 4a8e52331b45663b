"""A separate Docker engine that tests may kill."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from rlm.sandbox.docker.engine import default_engine
from rlm.sandbox.docker.image import image_name

UP_SECONDS = 30.0


class OwnEngine:
    """dockerd with its own socket and data root, without networks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Lock()

    def start(self) -> Self:
        command = [
            *("dockerd", "--host", self.address, "--data-root", f"{self._folder}/data"),
            *("--exec-root", f"{self._folder}/exec", "--pidfile", f"{self._folder}/pid"),
            *("--bridge=none", "--iptables=false", "--config-file", f"{self._folder}/daemon.json"),
        ]
        (self._folder / "daemon.json").write_text("{}")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + UP_SECONDS
        while self.docker("info", check=False).returncode != 0:
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        return self

    def end(self, number: int = signal.SIGTERM) -> None:
        """Stop it with a signal. On SIGTERM it also stops its containers."""
        with self._ending:  # two threads of a test may call this
            if self._process is not None:
                self._process.send_signal(number)
                self._process.wait(UP_SECONDS)
                self._process = None

    def restart(self, number: int = signal.SIGTERM) -> None:
        self.end(number)
        for left in (
            "pid",
            "exec/containerd/containerd.pid",
        ):  # a killed engine leaves them, and the kernel reuses PIDs
            (self._folder / left).unlink(missing_ok=True)
        self.start()

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["docker", "--host", self.address, *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True)

    def take_image(self) -> None:
        """Copy the sandbox image from the default engine."""
        with subprocess.Popen(["docker", "save", image_name()], stdout=subprocess.PIPE) as save:
            subprocess.run(
                ["docker", "--host", self.address, "load"], stdin=save.stdout, check=True, capture_output=True
            )


@pytest.fixture(scope="module")
def module_engine() -> Iterator[OwnEngine]:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("needs root and dockerd to start a separate engine")
    with tempfile.TemporaryDirectory(prefix="rlm-engine-") as folder:
        engine = OwnEngine(Path(folder)).start()
        try:
            engine.take_image()
            yield engine
        finally:
            engine.end()
            mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            for mount in sorted((mount for mount in mounts if mount.startswith(folder)), reverse=True):
                subprocess.run(["umount", "--lazy", mount], check=True)


@pytest.fixture
def own_engine(module_engine: OwnEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnEngine]:
    """The running engine, selected for sandboxes."""
    monkeypatch.setenv("DOCKER_HOST", module_engine.address)
    yield module_engine
    default_engine().close()
    gc.collect()  # before the test's warning filters end
