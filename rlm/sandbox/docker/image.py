"""The sources of the sandbox image, and the digest that ties an image to this package. Standard library only.

The sources are beside the package in a checkout and inside it in a wheel. The image carries their digest as a label, so
the host can reject an image that was built from other sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from rlm.errors import EngineUnavailable

REPOSITORY = "rlm-sandbox"
TAG_CHARS = 12  # characters of the digest in the image's tag
DIGEST_LABEL = "rlm.digest"
IMAGE_LABEL = "rlm.image"  # marks every image that the Dockerfile builds, including its stages

_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Folders of the source files: `protocol` is shared with the host, `image` holds the rest."""

    protocol: Path
    image: Path

    def files(self) -> dict[str, Path]:
        """The build context: name in the context to file, sorted. Contains nothing that Git ignores."""
        found = {f"protocol/{path.name}": path for path in self.protocol.glob("*.py")}
        found |= {f"rlm_guest/{path.name}": path for path in self.image.glob("rlm_guest/*.py")}
        found |= {name: self.image / name for name in ("Dockerfile", "assemble.py", "requirements.txt")}
        return dict(sorted(found.items()))

    def digest(self) -> str:
        """SHA-256 of the names and contents of all files, in hexadecimal."""
        total = sha256()
        for name, path in self.files().items():
            total.update(f"{name}\0{sha256(path.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()


def find_sources(package: Path = _PACKAGE) -> Sources:
    """Find the sources of the package in this folder.

    Raises:
        EngineUnavailable: The sources are missing, so no image can be built or trusted.
    """
    for image in (package.parent / "sandbox_image", package / "_sandbox_image"):
        if (image / "Dockerfile").is_file():
            return Sources(protocol=package / "protocol", image=image)
    raise EngineUnavailable("The sources of the sandbox image are missing: reinstall rlm.")


@cache
def seccomp_profile() -> str:
    """The seccomp profile of a sandbox as JSON (written by `scripts/make_seccomp.py`)."""
    return (find_sources().image / "seccomp.json").read_text()


@cache
def source_digest() -> str:
    """The digest of this package's sources, which a matching image carries as label `rlm.digest`."""
    return find_sources().digest()


def image_name() -> str:
    """The image for these sources. Each version has its own tag, so several versions can share a machine."""
    return f"{REPOSITORY}:{source_digest()[:TAG_CHARS]}"
