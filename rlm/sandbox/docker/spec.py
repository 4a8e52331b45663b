"""From a policy to the engine's arguments for a container. Pure: what a sandbox may do can be read and tested as data.

Names of fields are those of the engine's API (Docker Engine API 1.41, POST /containers/create).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rlm.config import MIB, SandboxConfig
from rlm.errors import ConfigError

from .runtimes import is_gvisor

UIDS: Final = range(20_000, 60_000)  # nobody that a host knows; below 65,536, where remapped and rootless engines end
WORKDIR: Final = "/workspace"
SOCKET_FOLDER: Final = "/run/rlm"
SOCKET_NAME: Final = "channel.sock"
SUPERVISOR_BYTES: Final = 64 * MIB  # of the container's memory that the worker's address space leaves free
MIN_MEMORY_BYTES: Final = 128 * MIB  # below it Python starts, and little else
GVISOR_PROCESSES: Final = 512  # gVisor counts its own threads in the container's limit
# Under gVisor users and capabilities exist in its own kernel only. That kernel lets a process of the same user open the
# descriptors of PID 1 and kill it, so there the supervisor is root with these, and the worker is not.
GVISOR_CAPABILITIES: Final = ["DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"]
OPEN_FILES: Final = 1024
TMPFS_INODES: Final = 16_384
CLOSED: Final = [
    "/dev/pts",
    "/dev/mqueue",
]  # terminals are counted for the whole machine: one sandbox could take them all
# Empty in a sandbox: what the engines hide by default (naming any takes the place of all), and what tells of the host: how
# it was started, its disks, its symbols.
MASKED: Final = [
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"),
    *("/sys/devices/virtual/powercap",),
    *("/proc/cmdline", "/proc/diskstats", "/proc/kallsyms", "/proc/modules", "/proc/partitions"),
    *("/proc/swaps", "/sys/block"),
]
OOM_SCORE: Final = 500  # the kernel takes a sandbox's process before any of the host's

# What Python in the container needs to know. Nothing of the host's environment goes in.
ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",  # the same cell takes the same path in every sandbox
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_ARENA_MAX": "2",  # an arena for each thread would use up the address space
    "HOME": WORKDIR,
    "USER": "sandbox",  # no file of the image knows the number
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container as the engine's API takes it.

    `worker_memory_bytes` is the limit on the worker's address space inside.
    """

    name: str
    arguments: Mapping[str, Any]
    worker_memory_bytes: int


def container_spec(
    config: SandboxConfig,
    *,
    name: str,
    image: str,
    uid: int,
    labels: Mapping[str, str],
    seccomp: str,
    context_bytes: int = 0,
    socket_folder: str | None = None,
) -> ContainerSpec:
    """The container of one sandbox, whose code runs as user `uid`.

    `seccomp` is the profile of system calls (JSON in the engine's format); `socket_folder` on the host is mounted for the
    `unix` transport.

    Raises:
        ConfigError: the policy leaves too little to run in.
    """
    memory = config.memory_bytes + config.memory_per_context_byte * context_bytes
    if memory < MIN_MEMORY_BYTES:
        raise ConfigError(
            f"SandboxConfig(memory_bytes={config.memory_bytes:,}) is too little: give {MIN_MEMORY_BYTES:,} or more."
        )
    gvisor = is_gvisor(config.runtime)
    tmpfs = f"rw,noexec,nosuid,nodev,size={config.tmp_bytes},nr_inodes={TMPFS_INODES},mode=1777"
    limits = {
        "nofile": OPEN_FILES,
        "fsize": memory,  # every file in there lies in memory, those of large values too
        "core": 0,
    }
    if gvisor:  # it has users of its own; elsewhere this would count all sandboxes of the host together
        limits["nproc"] = config.max_processes
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "IpcMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": [
            "no-new-privileges",
            f"seccomp={_profile(seccomp, unix=socket_folder is not None, gvisor=gvisor)}",
        ],
        "Privileged": False,
        "MaskedPaths": MASKED,
        "Memory": memory,
        "MemorySwap": memory,  # memory and swap together: no swap
        "NanoCpus": int(config.cpus * 1e9),
        "PidsLimit": max(config.max_processes, GVISOR_PROCESSES) if gvisor else config.max_processes,
        "OomScoreAdj": OOM_SCORE,
        "Ulimits": [{"Name": name, "Soft": limit, "Hard": limit} for name, limit in limits.items()],
        "Tmpfs": {"/tmp": tmpfs, WORKDIR: tmpfs} | dict.fromkeys(CLOSED, "ro,size=4k"),  # noqa: S108 - the container's
        "LogConfig": {"Type": "none", "Config": {}},  # a flood of output would fill the host's disk
        "AutoRemove": True,
        "Init": False,  # the supervisor has to be PID 1
    }
    if config.runtime is not None:
        host["Runtime"] = config.runtime
    command = ["--lifetime", f"{config.lifetime_seconds:g}"]
    if gvisor:
        host["CapAdd"] = GVISOR_CAPABILITIES
        command += ["--worker-uid", str(uid)]
    if socket_folder is not None:
        host["Mounts"] = [{"Type": "bind", "Source": socket_folder, "Target": SOCKET_FOLDER, "ReadOnly": True}]
        command += ["--unix", f"{SOCKET_FOLDER}/{SOCKET_NAME}"]
    over_stdin = socket_folder is None
    arguments = {
        "Image": image,
        "Cmd": command,
        "User": "0:0" if gvisor else f"{uid}:{uid}",
        "WorkingDir": WORKDIR,
        "Hostname": "sandbox",
        "Env": [f"{key}={value}" for key, value in ENVIRONMENT.items()],
        "Labels": dict(labels),
        "StopSignal": "SIGKILL",  # an engine that is stopped or restarted would wait 10 s for each sandbox to hear another
        "Tty": False,
        "OpenStdin": over_stdin,
        "StdinOnce": over_stdin,  # when the orchestrator is gone, the guest reads the end of its input, and ends
        "AttachStdin": over_stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "NetworkDisabled": True,
        "HostConfig": host,
    }
    return ContainerSpec(name=name, arguments=arguments, worker_memory_bytes=memory - SUPERVISOR_BYTES)


def _profile(seccomp: str, *, unix: bool, gvisor: bool) -> str:
    """The profile with what a transport and a runtime need beyond it."""
    if not (unix or gvisor):
        return seccomp
    profile = json.loads(seccomp)
    rules = profile["syscalls"]
    if unix:  # the guest connects a Unix socket once; no other kind can be made
        unix_only = {"index": 0, "value": socket.AF_UNIX.value, "op": "SCMP_CMP_EQ"}
        rules.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [unix_only]})
        rules.append({"names": ["connect"], "action": "SCMP_ACT_ALLOW"})
    if gvisor:  # it knows no error but EPERM for a refused call, which libc takes for the failure of a thread
        rules[:] = [rule for rule in rules if rule["names"] != ["clone3"]]
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ALLOW"})
    return json.dumps(profile)
