"""From a policy to the engine's arguments for a container. Pure: what a sandbox may do can be read, and tested, as data.

Names of fields are those of the engine's API (Docker Engine API 1.41, POST /containers/create).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rlm.config import MIB, SandboxConfig

USER: Final = "65532:65532"  # nobody that the host knows; no process of the image has another
WORKDIR: Final = "/workspace"
SOCKET_FOLDER: Final = "/run/rlm"
SOCKET_NAME: Final = "channel.sock"
SUPERVISOR_BYTES: Final = 64 * MIB  # of the container's memory that the worker's address space leaves free
GVISOR_PROCESSES: Final = 512  # gVisor counts its own threads in the limit
OPEN_FILES: Final = 1024
FILE_BYTES: Final = 1 << 40  # no bound of its own: a tmpfs has its size, and the memory files of contexts must fit
TMPFS_INODES: Final = 16_384
OOM_SCORE: Final = 500  # the kernel takes a sandbox's process before any of the host's

# What Python in the container needs to know. Nothing of the host's environment goes in.
ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",  # the same cell takes the same path in every sandbox
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_ARENA_MAX": "2",  # an arena for each thread would use up the address space
    "HOME": WORKDIR,
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
    labels: Mapping[str, str],
    context_bytes: int = 0,
    socket_folder: str | None = None,
) -> ContainerSpec:
    """The container of one sandbox; `socket_folder` on the host is mounted for the `unix` transport."""
    memory = config.memory_bytes + config.memory_per_context_byte * context_bytes
    processes = max(config.max_processes, GVISOR_PROCESSES) if config.runtime == "runsc" else config.max_processes
    tmpfs = f"rw,noexec,nosuid,nodev,size={config.tmp_bytes},nr_inodes={TMPFS_INODES},mode=1777"
    host = {
        "NetworkMode": "none",
        "IpcMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": int(config.cpus * 1e9),
        "PidsLimit": processes,
        "OomScoreAdj": OOM_SCORE,
        "Ulimits": [
            {"Name": "nofile", "Soft": OPEN_FILES, "Hard": OPEN_FILES},
            {"Name": "fsize", "Soft": FILE_BYTES, "Hard": FILE_BYTES},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "Tmpfs": {"/tmp": tmpfs, WORKDIR: tmpfs},  # noqa: S108 - the container's own
        "LogConfig": {"Type": "none", "Config": {}},
        "AutoRemove": True,
        "Init": False,  # the supervisor has to be PID 1
    }
    if config.runtime is not None:
        host["Runtime"] = config.runtime
    command: list[str] = []
    if socket_folder is not None:
        host["Mounts"] = [
            {"Type": "bind", "Source": socket_folder, "Target": SOCKET_FOLDER, "ReadOnly": True},
        ]
        command = ["--unix", f"{SOCKET_FOLDER}/{SOCKET_NAME}"]
    arguments = {
        "Image": config.image,
        "Cmd": command,
        "User": USER,
        "WorkingDir": WORKDIR,
        "Hostname": "sandbox",
        "Env": [f"{key}={value}" for key, value in ENVIRONMENT.items()],
        "Labels": dict(labels),
        "Tty": False,
        "OpenStdin": True,
        "StdinOnce": True,  # when the orchestrator is gone, the guest reads the end of its input, and ends
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "NetworkDisabled": True,
        "HostConfig": host,
    }
    return ContainerSpec(name=name, arguments=arguments, worker_memory_bytes=memory - SUPERVISOR_BYTES)
