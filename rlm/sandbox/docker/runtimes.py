"""Facts about container runtimes: known vulnerabilities, and which one is gVisor. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

GVISOR: Final = "runsc"
RUNC_FIXED_VERSIONS: Final = ((1, 2, 8), (1, 3, 3))  # first fixed patch of each minor version; later minors are fixed
RUNC_CVES: Final = "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"


def is_gvisor(runtime: str | None) -> bool:
    """Whether a runtime is gVisor, judged by its name."""
    return runtime is not None and runtime.startswith(GVISOR)


def known_vulnerabilities(components: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning about the runc version among an engine's components (GET /version), or None.

    Source: the runc advisories of 2025-11-05 (GHSA-9493-h29p-rfm2, GHSA-qw9x-cqr3-wc7r, GHSA-cgrx-mc8f-2prm). A
    distribution may have patched an older version; only its own advisories can tell.
    """
    version = next((str(component.get("Version")) for component in components if component.get("Name") == "runc"), "")
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if match is None:
        return None
    numbers = tuple(map(int, match.groups()))
    fixed = next((fixed for fixed in RUNC_FIXED_VERSIONS if numbers[:2] == fixed[:2]), RUNC_FIXED_VERSIONS[0])
    if numbers >= fixed:
        return None
    upgrades = " or ".join(".".join(map(str, fixed)) for fixed in RUNC_FIXED_VERSIONS)
    return (
        f"runc {version} has known container escapes ({RUNC_CVES}). Upgrade to {upgrades} or later, "
        f"or use gVisor: SandboxConfig(runtime='{GVISOR}')."
    )
