"""What the sandbox image is made of, and the digest that ties an image to this package. Standard library only.

The sources lie beside the package in a checkout and inside it in an installed wheel. The image carries their digest as
a label, so the host can refuse, by name, an image whose guest is not its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from rlm.errors import EngineUnavailable

REPOSITORY = "rlm-sandbox"
TAG_CHARS = 12  # of the digest
DIGEST_LABEL = "rlm.digest"
IMAGE_LABEL = "rlm.image"  # of all images that are built from the Dockerfile, those of its stages too

_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the files are: `protocol`, shared with the host, and `image`, the rest."""

    protocol: Path
    image: Path

    def files(self) -> dict[str, Path]:
        """The build context: each file's name there, in order, and the file. What Git ignores is not among them."""
        found = {f"protocol/{path.name}": path for path in self.protocol.glob("*.py")}
        found |= {f"rlm_guest/{path.name}": path for path in self.image.glob("rlm_guest/*.py")}
        found |= {name: self.image / name for name in ("Dockerfile", "assemble.py", "requirements.txt")}
        return dict(sorted(found.items()))

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the names and bytes of all files."""
        total = sha256()
        for name, path in self.files().items():
            total.update(f"{name}\0{sha256(path.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()


def find_sources(package: Path = _PACKAGE) -> Sources:
    """The sources that belong to the package in this folder.

    Raises:
        EngineUnavailable: they are not there, so no image can be built or trusted.
    """
    for image in (package.parent / "sandbox_image", package / "_sandbox_image"):
        if (image / "Dockerfile").is_file():
            return Sources(protocol=package / "protocol", image=image)
    raise EngineUnavailable("The sources of the sandbox image are missing: install rlm again.")


@cache
def seccomp_profile() -> str:
    """The profile of the system calls that a sandbox may use, as JSON (made by `scripts/make_seccomp.py`)."""
    return (find_sources().image / "seccomp.json").read_text()


@cache
def source_digest() -> str:
    """The digest that an image of this package carries as its label `rlm.digest`."""
    return find_sources().digest()


def image_name() -> str:
    """The image of this package. Each version of the sources has its own, so that several can be used on one machine."""
    return f"{REPOSITORY}:{source_digest()[:TAG_CHARS]}"
