"""What the engine says of containers, asked beside the code under test."""

from __future__ import annotations

import subprocess


def containers(label: str) -> list[str]:
    """Ids of the containers with this label, whatever their state."""
    command = ["docker", "ps", "-aq", "--no-trunc", "--filter", f"label={label}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
