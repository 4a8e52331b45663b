"""Prints what a container checker finds in a sandbox, as the table of docs/security-checker.md.

    .venv/bin/python scripts/check_sandbox.py [--transport unix]

The names of system calls come from the C headers. Without these, the table shows numbers.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

from rlm import Sandbox, SandboxConfig

CHECKER: Final = Path(__file__).resolve().parent.parent / "tests" / "security" / "checker.py"
HEADER: Final = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


async def findings(config: SandboxConfig) -> dict[str, Any]:
    """The checker's report from a sandbox with this policy."""
    async with Sandbox(config) as sandbox:
        result = await sandbox.run(CHECKER.read_text())
    if result.outcome != "ok":
        raise SystemExit(f"The checker failed: {result.error}")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def names() -> dict[str, str]:
    """System call names by number."""
    text = HEADER.read_text() if HEADER.is_file() else ""
    return {number: name for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}


def shared(namespaces: dict[str, str]) -> list[str]:
    """The namespaces that a sandbox shares with this process."""
    return sorted(name for name, inode in namespaces.items() if os.readlink(f"/proc/self/ns/{name}") == inode)


def main() -> None:
    transport: Any = "unix" if "unix" in sys.argv else "attach"
    found = asyncio.run(findings(SandboxConfig(transport=transport)))
    known = names()
    calls = {known.get(number, number): answer for number, answer in found["calls"].items()}
    refused = sorted(name for name, answer in calls.items() if answer == "EPERM")
    absent = sorted(name for name, answer in calls.items() if answer == "ENOSYS")
    own = sorted(set(found["namespaces"]) - set(shared(found["namespaces"])))
    writable = [place for place, _, options in found["mounts"] if options.split(",")[0] == "rw"]
    ids = {found["user"][0], found["user"][1], *found["user"][2]}
    rows = {
        "user, group, further groups": "root" if 0 in ids else "not root",
        "capabilities": ", ".join(f"{name} {value}" for name, value in found["capabilities"].items()),
        "no new privileges": found["no_new_privileges"],
        "seccomp": f"mode {found['seccomp_mode']}, {found['seccomp_filters']} filter",
        "AppArmor": found["apparmor"],
        "own namespaces": ", ".join(own),
        "namespaces of the host": ", ".join(shared(found["namespaces"])),
        "user ids": " ".join(found["user_map"]),
        "network interfaces": ", ".join(found["interfaces"]),
        "visible processes": len(found["processes"]),
        "environment": ", ".join(found["environment"]),
        "sockets of engines": found["sockets_of_engines"] or "none",
        "shells": found["shells"] or "none",
        "setuid and setgid files": found["setuid"] or "none",
        "mounts that are not read-only": ", ".join(writable),
        "writable folders": ", ".join(found["writable"]),
        "devices": ", ".join(found["devices"]),
        "system calls tried": len(calls),
        f"refused with EPERM ({len(refused)})": ", ".join(refused),
        f"missing, ENOSYS ({len(absent)})": ", ".join(absent),
    }
    print("| inspected | found |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
