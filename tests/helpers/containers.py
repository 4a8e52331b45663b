"""Queries the engine without the code under test, and parametrizes tests over runtimes and transports."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal, get_args

import pytest

from rlm import SandboxConfig, SandboxDied
from rlm.sandbox.docker.runtimes import GVISOR, is_gvisor

Transport = Literal["attach", "unix"]


def containers(label: str, *, status: str | None = None) -> list[str]:
    """Ids of the containers with this label, optionally in this state."""
    command = ["docker", "ps", "-aq", "--no-trunc", "--filter", f"label={label}"]
    command += [] if status is None else ["--filter", f"status={status}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture(autouse=True)
def no_container_is_left() -> Iterator[None]:
    """After each test, this process must have no container."""
    yield
    assert containers(f"rlm.owner.pid={os.getpid()}") == []


@cache
def runtimes() -> set[str]:
    """The runtimes that this engine offers."""
    command = ["docker", "info", "--format", "{{json .Runtimes}}"]
    return set(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def ways(*, daily: int) -> list[object]:
    """A policy for each runtime and transport; the first `daily` of them without the mark `long`."""
    configs = [
        SandboxConfig(runtime=runtime, transport=transport)
        for runtime in (None, GVISOR)
        for transport in get_args(Transport)
    ]
    return [
        pytest.param(
            config,
            id=f"{config.runtime or 'runc'}-{config.transport}",
            marks=() if number < daily else pytest.mark.long,
        )
        for number, config in enumerate(configs)
    ]


@contextmanager
def its_own_cost(config: SandboxConfig) -> Iterator[None]:
    """Allow the loss of the sandbox under gVisor, whose kernel shares its limits, but not under runc."""
    try:
        yield
    except SandboxDied:
        if not is_gvisor(config.runtime):
            raise


def offered(config: SandboxConfig) -> SandboxConfig:
    """The policy; skips the test if this engine lacks its runtime. An engine started by `make setup` has it."""
    if config.runtime is not None and config.runtime not in runtimes():
        pytest.skip(f"this engine has no runtime {config.runtime!r} (`rlm doctor` shows how to add it)")
    return config
