"""Turns a policy into the engine's arguments for a container. Pure, so that the restrictions can be tested as data.

Field names are those of the engine's API (Docker Engine API 1.41, POST /containers/create).
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

UIDS: Final = range(20_000, 60_000)  # unused on hosts; below 65,536, the limit of remapped and rootless engines
WORKDIR: Final = "/workspace"
SOCKET_FOLDER: Final = "/run/rlm"
SOCKET_NAME: Final = "channel.sock"
SUPERVISOR_BYTES: Final = 64 * MIB  # memory of the container beyond the worker's address space
MIN_MEMORY_BYTES: Final = 128 * MIB  # with less, Python starts but can do little else
GVISOR_PROCESSES: Final = 512  # gVisor counts its own threads in the container's limit
# Under gVisor, users and capabilities exist only in its own kernel. That kernel lets a process of the same user open the
# descriptors of PID 1 and kill it. So the supervisor is root with these capabilities, and the worker is not.
GVISOR_CAPABILITIES: Final = ["DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"]
MAX_OPEN_FILES: Final = 1024  # per process
TMPFS_INODES: Final = 16_384  # files and folders of each writable tmpfs
# Covered by a read-only tmpfs. Terminals are counted machine-wide: one sandbox could take them all.
COVERED_PATHS: Final = ["/dev/pts", "/dev/mqueue"]
# Empty in a sandbox: the engine's default list, which any explicit list replaces, and files that describe the host (boot
# parameters, disks, symbols).
MASKED_PATHS: Final = [
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"),
    *("/sys/devices/virtual/powercap",),
    *("/proc/cmdline", "/proc/diskstats", "/proc/kallsyms", "/proc/modules", "/proc/partitions"),
    *("/proc/swaps", "/sys/block"),
]
OOM_SCORE: Final = 500  # the kernel kills a sandbox's process before any of the host's

# Environment of Python in the container. Nothing of the host's environment goes in.
ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",  # the same cell takes the same path in every sandbox
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_ARENA_MAX": "2",  # one arena per thread would exhaust the address space
    "HOME": WORKDIR,
    "USER": "sandbox",  # no file of the image lists the user id
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container to create.

    Attributes:
        name: Name of the container.
        arguments: Body of the engine's request.
        worker_memory_bytes: Address-space limit of the worker inside.
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
    """Describe the container of one sandbox.

    Args:
        config: The policy.
        name: Name of the container.
        image: Name of the image.
        uid: User id that the code runs as.
        labels: Labels of the container.
        seccomp: Profile of system calls, as JSON in the engine's format.
        context_bytes: Size of the context; the memory limit grows with it.
        socket_folder: Folder of the host to mount for the `unix` transport.

    Raises:
        ConfigError: The memory limit is too small.
    """
    memory = config.memory_bytes + config.memory_per_context_byte * context_bytes
    if memory < MIN_MEMORY_BYTES:
        raise ConfigError(
            f"SandboxConfig(memory_bytes={config.memory_bytes:,}) is too small: use {MIN_MEMORY_BYTES:,} or more."
        )
    gvisor = is_gvisor(config.runtime)
    command = ["--lifetime", f"{config.lifetime_seconds:g}"]
    if gvisor:
        command += ["--worker-uid", str(uid)]
    if socket_folder is not None:
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
        "StopSignal": "SIGKILL",  # PID 1 ignores other signals, and a stopping engine would wait 10 s for each sandbox
        "Tty": False,
        "OpenStdin": over_stdin,
        "StdinOnce": over_stdin,  # without the orchestrator, the guest reads the end of its input, and exits
        "AttachStdin": over_stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "NetworkDisabled": True,
        "HostConfig": _host_config(config, memory=memory, seccomp=seccomp, socket_folder=socket_folder),
    }
    return ContainerSpec(name=name, arguments=arguments, worker_memory_bytes=memory - SUPERVISOR_BYTES)


def _host_config(config: SandboxConfig, *, memory: int, seccomp: str, socket_folder: str | None) -> dict[str, Any]:
    """The resource limits and restrictions of a container."""
    gvisor = is_gvisor(config.runtime)
    tmpfs = f"rw,noexec,nosuid,nodev,size={config.tmp_bytes},nr_inodes={TMPFS_INODES},mode=1777"
    limits = {
        "nofile": MAX_OPEN_FILES,
        "fsize": memory,  # all files are in memory, including those of large values
        "core": 0,
    }
    if gvisor:  # its kernel counts per sandbox; without it, the host's kernel would count all sandboxes together
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
        "MaskedPaths": MASKED_PATHS,
        "Memory": memory,
        "MemorySwap": memory,  # memory and swap together: no swap
        "NanoCpus": int(config.cpus * 1e9),
        "PidsLimit": max(config.max_processes, GVISOR_PROCESSES) if gvisor else config.max_processes,
        "OomScoreAdj": OOM_SCORE,
        "Ulimits": [{"Name": name, "Soft": limit, "Hard": limit} for name, limit in limits.items()],
        "Tmpfs": {"/tmp": tmpfs, WORKDIR: tmpfs}  # noqa: S108 - the container's
        | dict.fromkeys(COVERED_PATHS, "ro,size=4k"),
        "LogConfig": {"Type": "none", "Config": {}},  # logs could fill the host's disk
        "AutoRemove": True,
        "Init": False,  # the supervisor must be PID 1
    }
    if config.runtime is not None:
        host["Runtime"] = config.runtime
    if gvisor:
        host["CapAdd"] = GVISOR_CAPABILITIES
    if socket_folder is not None:
        host["Mounts"] = [{"Type": "bind", "Source": socket_folder, "Target": SOCKET_FOLDER, "ReadOnly": True}]
    return host


def _profile(seccomp: str, *, unix: bool, gvisor: bool) -> str:
    """Add the rules that the transport and the runtime need."""
    if not (unix or gvisor):
        return seccomp
    profile = json.loads(seccomp)
    rules = profile["syscalls"]
    if unix:  # the guest connects one Unix socket; no other family is allowed
        unix_only = {"index": 0, "value": socket.AF_UNIX.value, "op": "SCMP_CMP_EQ"}
        rules.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [unix_only]})
        rules.append({"names": ["connect"], "action": "SCMP_ACT_ALLOW"})
    if gvisor:  # it answers a rejected call with EPERM only, which libc takes as a failure to start a thread
        rules[:] = [rule for rule in rules if rule["names"] != ["clone3"]]
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ALLOW"})
    return json.dumps(profile)
