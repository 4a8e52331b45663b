"""Builds the sandbox image: `python -m rlm.sandbox.docker.build [--extra "numpy pandas"] [--force]`.

Nothing is built if the image has the right digest. The base is `python:3.12-slim` if a registry answers, otherwise one
that mmdebstrap makes from the packages of this Debian system. The build itself has no network: pip downloads the wheels on
the host, by hash, into the build context.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

from rlm.errors import EngineUnavailable

from .image import DIGEST_LABEL, Sources, find_sources, image_name

REGISTRY_BASE = "python:3.12-slim"
LOCAL_BASE = "rlm-base:2"  # the number rises with each change of the packages below
REGISTRY_SECONDS = 5.0  # timeout for the registry's first answer; the download itself has none
# libc-bin holds the locale C.UTF-8; libstdc++ is for extra packages such as numpy.
DEBIAN_PACKAGES = "python3-minimal,libpython3-stdlib,libc-bin,libstdc++6,tzdata"
# Age at which unused images are removed. Other checkouts and versions on this machine may need younger ones.
UNUSED_IMAGE_AGE = "168h"
LABELS = f'{{{{index .Config.Labels "{DIGEST_LABEL}"}}}},{{{{index .Config.Labels "rlm.extra"}}}}'


def print_progress(text: str) -> None:
    """Write one line of progress without buffering."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def run(*command: str, failure: str) -> str:
    """Run a command and return its output. Raises EngineUnavailable with `failure` and its last lines if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise EngineUnavailable(f"{failure} ({command[0]} is not installed)") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise EngineUnavailable(f"{failure}\n{tail}")
    return done.stdout.strip()


def inspect_image(name: str, template: str) -> str | None:
    """Inspect an image with a Go template. Returns None if the image does not exist."""
    command = ["docker", "image", "inspect", "--format", template, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EngineUnavailable("The command `docker` is missing: install Docker.") from None
    return done.stdout.strip() if done.returncode == 0 else None


def built_from() -> tuple[str, str]:
    """The digest and the extra packages of the existing image. Both are empty without an image."""
    digest, _, extra = (inspect_image(image_name(), LABELS) or "").partition(",")
    return digest, extra


def find_base() -> str:
    """The name of the base image: an existing one, otherwise the registry's, otherwise one made from packages."""
    for name in (LOCAL_BASE, REGISTRY_BASE):
        if inspect_image(name, "{{.Id}}"):
            return name
    if pull_base():
        return REGISTRY_BASE
    make_base()
    return LOCAL_BASE


def pull_base() -> bool:
    """Pull the base image, with a timeout for the registry's first answer. Returns whether it succeeded."""
    print_progress(f"Asking the registry for {REGISTRY_BASE} …")
    command = ["docker", "pull", REGISTRY_BASE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as pull:
        deadline = Timer(REGISTRY_SECONDS, pull.kill)
        deadline.start()
        assert pull.stdout is not None  # it is a pipe
        pull.stdout.readline()
        deadline.cancel()
        pull.communicate()
    return pull.returncode == 0


def make_base() -> None:
    """Import a small Debian file system with Python. Packages are only unpacked: their scripts never run."""
    print_progress(f"No registry answers. Building the base image {LOCAL_BASE} from Debian packages …")
    as_root = [] if os.geteuid() == 0 else ["sudo"] if shutil.which("sudo") else None
    if shutil.which("mmdebstrap") is None:
        if as_root is None or shutil.which("apt-get") is None:
            raise EngineUnavailable(
                f"No registry answers and mmdebstrap is missing: run `docker pull {REGISTRY_BASE}` with network access, "
                "or install mmdebstrap, and try again."
            )
        print_progress("Installing mmdebstrap with apt-get …")
        run(*as_root, "apt-get", "update", "-q", failure="apt-get could not read the package lists.")
        install = ("apt-get", "install", "-qy", "--no-install-recommends", "mmdebstrap")
        run(*as_root, *install, failure="apt-get could not install mmdebstrap.")
    with tempfile.TemporaryDirectory(prefix="rlm-base-") as folder:
        archive = f"{folder}/base.tar"
        command = [*(as_root or []), "mmdebstrap", "--quiet", "--variant=extract", f"--include={DEBIAN_PACKAGES}"]
        run(*command, release(), archive, *package_sources(), failure="mmdebstrap could not build the base image.")
        run("docker", "import", archive, LOCAL_BASE, failure="The engine could not import the base image.")


def release() -> str:
    """Code name of this Debian release."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return next((line.split("=")[1].strip('"') for line in lines if line.startswith("VERSION_CODENAME=")), "stable")


def package_sources() -> list[str]:
    """The system's own package sources, which are known to be reachable."""
    found: list[Path] = []
    for pattern in ("sources.list.d/*debian.sources", "sources.list.d/*ubuntu.sources", "sources.list"):
        found += [file for file in Path("/etc/apt").glob(pattern) if "deb" in file.read_text()]
    return [str(file) for file in found[:1]]


def fetch_wheels(base: str, sources: Sources, extra: Sequence[str], folder: Path) -> None:
    """Download the wheels for the base's Python by hash; extra packages are not pinned, so without hashes."""
    probe = "import platform, sys; print(*sys.version_info[:2], platform.machine())"
    ask = ("docker", "run", "--rm", "--network=none", "--entrypoint=python3", base, "-c", probe)
    major, minor, machine = run(*ask, failure=f"The base image {base} has no working Python.").split()
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in ("2_17", "2_24", "2_26", "2_27", "2_28")]
    options = ["--only-binary=:all:", f"--python-version={major}.{minor}", "--implementation=cp"]
    options += [*platforms, f"--platform=manylinux2014_{machine}", f"--dest={folder}", "--quiet"]
    pip = (sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options)
    requirements = ("--require-hashes", "--no-deps", "-r", str(sources.image / "requirements.txt"))
    run(*pip, *requirements, failure="pip could not download the guest's packages.")
    if extra:
        run(*pip, *extra, failure=f"pip could not download {', '.join(extra)}.")


def build(sources: Sources, digest: str, extra: str) -> None:
    """Build the image unconditionally."""
    base = find_base()
    print_progress(f"Building the image {image_name()} on {base} …")
    with tempfile.TemporaryDirectory(prefix="rlm-image-") as name:
        context = Path(name)
        for target, source in sources.files().items():
            (context / target).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, context / target)
        fetch_wheels(base, sources, extra.split(), context / "wheels")
        arguments = {"BASE": base, "DIGEST": digest, "EXTRA": extra}
        options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command = ("docker", "build", "--network=none", "--force-rm", *options, "--tag", image_name(), name)
        run(*command, failure="The image build failed.")
    # Remove untagged leftovers of earlier builds, and images of old versions. Only our images carry the label.
    prune = ("docker", "image", "prune", "--force", "--filter=label=rlm.image")
    for selection in ((), ("--all", f"--filter=until={UNUSED_IMAGE_AGE}")):
        run(*prune, *selection, failure="Docker could not remove old images.")


@contextmanager
def build_lock() -> Iterator[None]:
    """Hold the lock of this user's builds: two at once would remove each other's stages."""
    with open(Path(tempfile.gettempdir()) / f"rlm-image-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_image(extra: str | None = None, *, force: bool = False) -> bool:
    """Build this package's image if the engine does not have it.

    Args:
        extra: Names of additional packages, separated by spaces. None keeps those of the existing image.
        force: Build even if the image is up to date.

    Returns:
        Whether the image was built.

    Raises:
        EngineUnavailable: The build failed. The message says what to do.
    """
    sources = find_sources()
    digest = sources.digest()

    def packages_to_build() -> str | None:
        """The extra packages to build with, or None if the image is up to date."""
        current_digest, current = built_from()
        packages = current if extra is None else " ".join(sorted(extra.split()))
        return None if (current_digest, current) == (digest, packages) and not force else packages

    if packages_to_build() is None:
        return False
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        raise EngineUnavailable(
            "No Docker engine answers: start it (`sudo systemctl start docker`, or Docker Desktop), or set DOCKER_HOST "
            "to a running engine."
        )
    with build_lock():
        if (packages := packages_to_build()) is None:
            return False
        build(sources, digest, packages)
    return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rlm.sandbox.docker.build", description="Build the sandbox image.")
    parser.add_argument(
        "--extra",
        metavar="PACKAGES",
        help='additional packages, such as "numpy pandas" (default: keep the current ones)',
    )
    parser.add_argument("--force", action="store_true", help="build even if the image is up to date")
    arguments = parser.parse_args()
    try:
        built = ensure_image(arguments.extra, force=arguments.force)
    except EngineUnavailable as error:
        raise SystemExit(f"error: {error}") from error
    print_progress(f"The image {image_name()} is {'ready' if built else 'up to date'}.")


if __name__ == "__main__":
    main()
