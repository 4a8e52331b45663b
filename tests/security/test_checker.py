"""The findings of a container checker from inside a sandbox (docs/security-checker.md)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from helpers.containers import Transport
from rlm import Sandbox, SandboxConfig

pytestmark = pytest.mark.anyio

CHECKER = Path(__file__).with_name("checker.py").read_text()
REFUSED = 100  # minimum number of refused system calls on x86_64; amicontained finds about 60 with the engine's default
NAMESPACES = {"mnt", "pid", "net", "ipc", "uts"}
DEVICES = {f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero")}
SOCKET = 41  # the number of socket(2)


@pytest.mark.parametrize("transport", ["attach", "unix"])
async def test_a_container_checker_finds_nothing_to_begin_with(transport: Transport) -> None:
    async with Sandbox(SandboxConfig(transport=transport)) as sandbox:
        result = await sandbox.run(CHECKER)
    assert result.outcome == "ok", result.error
    found = json.loads(result.stdout)
    assert 0 not in (found["user"][0], found["user"][1], *found["user"][2])
    assert {int(value, 16) for value in found["capabilities"].values()} == {0}
    assert (found["no_new_privileges"], found["seccomp_mode"]) == ("1", "2")
    assert all(found["namespaces"][name] != os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES)
    assert found["interfaces"] == ["lo"]
    assert found["sockets_of_engines"] == found["shells"] == found["setuid"] == []
    assert set(found["devices"]) <= DEVICES
    assert set(found["writable"]) <= {"/tmp", "/workspace"}
    answers = list(found["calls"].values())
    assert answers.count("EPERM") >= REFUSED - (transport == "unix")
    assert found["calls"][str(SOCKET)] == "EPERM"  # a socket of an unknown family, over any transport
