"""The restrictions of a container, as data."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from rlm.config import MIB, SandboxConfig
from rlm.errors import ConfigError
from rlm.sandbox.docker.spec import COVERED_PATHS, ContainerSpec, container_spec

PROFILE = '{"syscalls": []}'


def spec(config: SandboxConfig | None = None, **options: Any) -> ContainerSpec:
    given: dict[str, Any] = {
        "name": "rlm-x",
        "image": "picture",
        "uid": 20_123,
        "labels": {"rlm.run": "r"},
        "seccomp": PROFILE,
    } | options
    return container_spec(config or SandboxConfig(), **given)


def host(config: SandboxConfig | None = None, **options: Any) -> dict[str, Any]:
    host_config: dict[str, Any] = spec(config, **options).arguments["HostConfig"]
    return host_config


def ulimits(config: SandboxConfig | None = None, **options: Any) -> dict[str, tuple[int, int]]:
    return {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host(config, **options)["Ulimits"]}


def test_a_container_has_no_network_no_shared_memory_and_its_own_name() -> None:
    assert host()["NetworkMode"] == "none"
    assert spec().arguments["NetworkDisabled"] is True
    assert host()["IpcMode"] == "none"
    assert spec().arguments["Hostname"] == "sandbox"
    assert not {"PidMode", "UTSMode", "UsernsMode", "Devices", "PortBindings", "VolumesFrom", "Links"} & host().keys()


def test_a_container_runs_as_nobody_and_cannot_gain_privileges() -> None:
    assert spec().arguments["User"] == "20123:20123"
    assert host()["CapDrop"] == ["ALL"]
    assert "CapAdd" not in host()
    assert host()["Privileged"] is False
    assert "no-new-privileges" in host()["SecurityOpt"]
    assert not any("unconfined" in option for option in host()["SecurityOpt"])


def test_files_that_describe_the_host_are_hidden_as_are_all_that_engines_hide() -> None:
    engines = {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"}
    engines |= {
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    }
    assert engines | {"/proc/cmdline", "/proc/partitions", "/sys/block"} <= set(host()["MaskedPaths"])
    assert "ReadonlyPaths" not in host(), "the engine's own, as long as none are named"


def test_a_container_can_write_only_to_its_own_limited_tmpfs() -> None:
    assert host()["ReadonlyRootfs"] is True
    disks = host(SandboxConfig(tmp_bytes=123))["Tmpfs"]
    assert disks.keys() == {"/tmp", "/workspace", *COVERED_PATHS}
    assert all(disks[closed].split(",")[0] == "ro" for closed in COVERED_PATHS)
    for place in ("/tmp", "/workspace"):
        flags = disks[place].split(",")
        assert {"noexec", "nosuid", "nodev", "size=123"} <= set(flags)
        assert any(flag.startswith("nr_inodes=") for flag in flags)
    assert not {"Binds", "Mounts"} & host().keys()
    assert spec().arguments["WorkingDir"] == "/workspace"


def test_memory_grows_with_the_context_and_there_is_no_swap() -> None:
    config = SandboxConfig(memory_bytes=200 * MIB, memory_per_context_byte=3)
    for context, memory in ((0, 200 * MIB), (10 * MIB, 230 * MIB)):
        options = host(config, context_bytes=context)
        assert options["Memory"] == options["MemorySwap"] == memory
        worker = spec(config, context_bytes=context).worker_memory_bytes
        assert 0 < worker < memory, "the supervisor needs some too"
        assert ulimits(config, context_bytes=context)["fsize"][0] >= context


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory_bytes"):
        spec(SandboxConfig(memory_bytes=16 * MIB))


def test_processes_processors_and_files_are_bounded() -> None:
    config = SandboxConfig(cpus=1.5, max_processes=77)
    assert host(config)["NanoCpus"] == 1_500_000_000
    assert host(config)["PidsLimit"] == 77
    assert ulimits(config)["core"] == (0, 0)
    assert ulimits(config)["nofile"] == (1024, 1024)
    assert "nproc" not in ulimits(config), "it would count the sandboxes of the whole host"


def test_gvisor_gets_room_for_its_own_threads_and_a_limit_inside() -> None:
    config = SandboxConfig(runtime="runsc", max_processes=77)
    assert host(config)["Runtime"] == "runsc"
    assert host(config)["PidsLimit"] >= 512
    assert ulimits(config)["nproc"] == (77, 77)
    assert "Runtime" not in host()


def test_under_gvisor_the_code_runs_as_another_user_than_its_supervisor() -> None:
    """Its kernel lets processes of one user open each other's descriptors, despite PR_SET_DUMPABLE."""
    config = SandboxConfig(runtime="runsc")
    assert spec(config).arguments["User"] == "0:0"
    assert spec(config).arguments["Cmd"][2:] == ["--worker-uid", "20123"]
    assert host(config)["CapDrop"] == ["ALL"]
    assert host(config)["CapAdd"] == ["DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"]
    assert "CapAdd" not in host()


def test_the_kernel_kills_sandboxes_before_other_processes() -> None:
    assert host()["OomScoreAdj"] > 0
    assert host()["LogConfig"]["Type"] == "none"
    assert host()["AutoRemove"] is True
    assert spec().arguments["StopSignal"] == "SIGKILL"  # a stopping engine does not wait for sandboxes


def test_nothing_of_the_hosts_environment_goes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    values = dict(line.split("=", 1) for line in spec().arguments["Env"])
    assert values.keys() == {"HOME", "LANG", "MALLOC_ARENA_MAX", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "USER"}
    assert not set(values.values()) & (set(os.environ.values()) - {"0", "1", "2", "C.UTF-8"})


def test_attached_it_ends_with_its_orchestrator_and_is_no_terminal() -> None:
    arguments = spec().arguments
    assert arguments["Tty"] is False
    assert arguments["OpenStdin"] is arguments["StdinOnce"] is arguments["AttachStdin"] is True
    assert arguments["AttachStdout"] is arguments["AttachStderr"] is True
    assert arguments["Cmd"] == ["--lifetime", "86400"]


def test_over_a_socket_there_is_one_mount_read_only_and_no_input() -> None:
    arguments = spec(socket_folder="/host/folder").arguments
    assert arguments["HostConfig"]["Mounts"] == [
        {"Type": "bind", "Source": "/host/folder", "Target": "/run/rlm", "ReadOnly": True}
    ]
    assert arguments["Cmd"][2:] == ["--unix", "/run/rlm/channel.sock"]
    assert arguments["OpenStdin"] is arguments["AttachStdin"] is False


def test_labels_and_image_are_those_given() -> None:
    arguments = spec(image="mine").arguments
    assert (arguments["Image"], arguments["Labels"]) == ("mine", {"rlm.run": "r"})


def test_the_profile_of_system_calls_is_given_to_the_engine() -> None:
    assert f"seccomp={PROFILE}" in host()["SecurityOpt"]


def test_a_guest_that_connects_may_make_unix_sockets_only() -> None:
    option = next(option for option in host(socket_folder="/x")["SecurityOpt"] if option.startswith("seccomp="))
    socket_rule, connect_rule = json.loads(option.removeprefix("seccomp="))["syscalls"]
    assert (socket_rule["names"], connect_rule["names"]) == (["socket"], ["connect"])
    assert socket_rule["args"] == [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]
