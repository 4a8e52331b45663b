"""What is known of container runtimes: which have open doors, and which is gVisor. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

GVISOR: Final = "runsc"
RUNC_FIXED: Final = ((1, 2, 8), (1, 3, 3))  # by minor version; all that come later have it from their start
RUNC_HOLES: Final = "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"


def is_gvisor(runtime: str | None) -> bool:
    """Whether a runtime of the engine is gVisor, by its name."""
    return runtime is not None and runtime.startswith(GVISOR)


def known_holes(components: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence on the runc that an engine names among its components (GET /version), or None if all is well.

    Source: the advisories of runc of 2025-11-05 (GHSA-9493-h29p-rfm2, GHSA-qw9x-cqr3-wc7r, GHSA-cgrx-mc8f-2prm). A
    distribution may have mended an older version; only its own advisories can tell.
    """
    version = next((str(component.get("Version")) for component in components if component.get("Name") == "runc"), "")
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return None
    numbers = tuple(map(int, found.groups()))
    fixed = next((fixed for fixed in RUNC_FIXED if numbers[:2] == fixed[:2]), RUNC_FIXED[0])
    if numbers >= fixed:
        return None
    needed = " or ".join(".".join(map(str, fixed)) for fixed in RUNC_FIXED)
    return (
        f"This engine runs runc {version}, which has known ways out of a container ({RUNC_HOLES}): update it to {needed} "
        f"or later, or run sandboxes under gVisor with SandboxConfig(runtime='{GVISOR}')."
    )
