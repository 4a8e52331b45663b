"""Builds the sandbox image: `python -m rlm.sandbox.docker.build [--extra "numpy pandas"] [--force]`.

Done already when the image has the right digest. Else the Dockerfile is built on `python:3.12-slim` where a registry
answers, or on a base that mmdebstrap makes from the packages of this Debian system. The build itself has no network:
the wheels are fetched on the host, by hash, and put into its context.
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
LOCAL_BASE = "rlm-base"
REGISTRY_SECONDS = 5.0  # until a registry has begun to answer; a download that has begun may take as long as it takes
DEBIAN_PACKAGES = "python3-minimal,libpython3-stdlib,libstdc++6,tzdata"  # libstdc++ for extra packages such as numpy
KEEP = "168h"  # an image that no container uses, for the other checkouts and versions on this machine
LABELS = f'{{{{index .Config.Labels "{DIGEST_LABEL}"}}}},{{{{index .Config.Labels "rlm.extra"}}}}'


def say(text: str) -> None:
    """One line of progress, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def run(*command: str, failure: str) -> str:
    """The output of a command; when it fails, its last lines and a sentence of ours."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise EngineUnavailable(f"{failure} ({command[0]} is not installed)") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise EngineUnavailable(f"{failure}\n{tail}")
    return done.stdout.strip()


def inspect_image(name: str, template: str) -> str | None:
    """What the engine knows of an image; None if there is no such image."""
    command = ["docker", "image", "inspect", "--format", template, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EngineUnavailable("The program docker is missing: run `make setup`, or install Docker.") from None
    return done.stdout.strip() if done.returncode == 0 else None


def built_from() -> tuple[str, str]:
    """The digest and the extra packages of the engine's image; both empty if there is none."""
    digest, _, extra = (inspect_image(image_name(), LABELS) or "").partition(",")
    return digest, extra


def find_base() -> str:
    """The name of the image to build on: one that is there, else the registry's, else one made here."""
    for name in (LOCAL_BASE, REGISTRY_BASE):
        if inspect_image(name, "{{.Id}}"):
            return name
    if pull_base():
        return REGISTRY_BASE
    make_base()
    return LOCAL_BASE


def pull_base() -> bool:
    """Try the registry, with a deadline until it has begun to answer."""
    say(f"Asking the registry for {REGISTRY_BASE} …")
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
    """Import a small Debian file system with Python. Packages are unpacked only: none of their scripts runs."""
    say(f"No registry answers. Making the base image {LOCAL_BASE} from Debian's packages …")
    as_root = [] if os.geteuid() == 0 else ["sudo"] if shutil.which("sudo") else None
    if shutil.which("mmdebstrap") is None:
        if as_root is None or shutil.which("apt-get") is None:
            raise EngineUnavailable(
                f"No registry answers and mmdebstrap is missing: run `docker pull {REGISTRY_BASE}` where one answers, "
                "or install mmdebstrap, and try again."
            )
        say("Installing mmdebstrap with apt-get …")
        run(*as_root, "apt-get", "update", "-q", failure="apt-get could not read the package lists.")
        install = ("apt-get", "install", "-qy", "--no-install-recommends", "mmdebstrap")
        run(*as_root, *install, failure="apt-get could not install mmdebstrap.")
    with tempfile.TemporaryDirectory(prefix="rlm-base-") as folder:
        archive = f"{folder}/base.tar"
        command = [*(as_root or []), "mmdebstrap", "--quiet", "--variant=extract", f"--include={DEBIAN_PACKAGES}"]
        run(*command, release(), archive, *package_sources(), failure="mmdebstrap could not make the base image.")
        run("docker", "import", archive, LOCAL_BASE, failure="The engine could not import the base image.")


def release() -> str:
    """The code name of this system's release."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return next((line.split("=")[1].strip('"') for line in lines if line.startswith("VERSION_CODENAME=")), "stable")


def package_sources() -> list[str]:
    """The system's own package sources: the ones known to answer here."""
    found: list[Path] = []
    for pattern in ("sources.list.d/*debian.sources", "sources.list.d/*ubuntu.sources", "sources.list"):
        found += [file for file in Path("/etc/apt").glob(pattern) if "deb" in file.read_text()]
    return [str(file) for file in found[:1]]


def fetch_wheels(base: str, sources: Sources, extra: Sequence[str], folder: Path) -> None:
    """The wheels for the base's Python, by hash; those of the extra packages, which nobody pinned, without."""
    probe = "import platform, sys; print(*sys.version_info[:2], platform.machine())"
    ask = ("docker", "run", "--rm", "--network=none", "--entrypoint=python3", base, "-c", probe)
    major, minor, machine = run(*ask, failure=f"The base image {base} has no working Python.").split()
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in ("2_17", "2_24", "2_26", "2_27", "2_28")]
    options = ["--only-binary=:all:", f"--python-version={major}.{minor}", "--implementation=cp"]
    options += [*platforms, f"--platform=manylinux2014_{machine}", f"--dest={folder}", "--quiet"]
    pip = (sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options)
    requirements = ("--require-hashes", "--no-deps", "-r", str(sources.image / "requirements.txt"))
    run(*pip, *requirements, failure="pip could not fetch the guest's packages.")
    if extra:
        run(*pip, *extra, failure=f"pip could not fetch {', '.join(extra)}.")


def build(sources: Sources, digest: str, extra: str) -> None:
    """Build the image, whatever is there."""
    base = find_base()
    say(f"Building the image {image_name()} on {base} …")
    with tempfile.TemporaryDirectory(prefix="rlm-image-") as name:
        context = Path(name)
        for target, source in sources.files().items():
            (context / target).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, context / target)
        fetch_wheels(base, sources, extra.split(), context / "wheels")
        arguments = {"BASE": base, "DIGEST": digest, "EXTRA": extra}
        options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command = ("docker", "build", "--network=none", "--force-rm", *options, "--tag", image_name(), name)
        run(*command, failure="The image could not be built.")
    # What an earlier build left without a name, and the images of versions long gone; only ours carry the label.
    prune = ("docker", "image", "prune", "--force", "--filter=label=rlm.image")
    for which in ((), ("--all", f"--filter=until={KEEP}")):
        run(*prune, *which, failure="Old images could not be removed.")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two builds at once would remove each other's stages."""
    with open(Path(tempfile.gettempdir()) / f"rlm-image-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_image(extra: str | None = None, *, force: bool = False) -> bool:
    """Make sure that the engine has this package's image.

    Args:
        extra: names of packages to put in beside msgpack, separated by spaces. None keeps those that the image has.
        force: build even if the right image is there.

    Returns:
        Whether it had to be built.

    Raises:
        EngineUnavailable: it could not be built; the text says what to do.
    """
    sources = find_sources()
    digest = sources.digest()

    def missing() -> str | None:
        """The extra packages to build with, or None if the image is as it should be."""
        has_digest, has_extra = built_from()
        wanted = has_extra if extra is None else " ".join(sorted(extra.split()))
        return None if (has_digest, has_extra) == (digest, wanted) and not force else wanted

    if missing() is None:
        return False
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        raise EngineUnavailable("No Docker engine answers: run `make setup`, or start it yourself, and try again.")
    with one_at_a_time():
        if (wanted := missing()) is None:
            return False
        build(sources, digest, wanted)
    return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rlm.sandbox.docker.build", description="Build the sandbox image.")
    parser.add_argument(
        "--extra", metavar="PACKAGES", help='more packages, as in --extra "numpy pandas"; else as before'
    )
    parser.add_argument("--force", action="store_true", help="build even if the right image is there")
    arguments = parser.parse_args()
    try:
        built = ensure_image(arguments.extra, force=arguments.force)
    except EngineUnavailable as error:
        raise SystemExit(f"error: {error}") from error
    say(f"The image {image_name()} is {'ready' if built else 'up to date'}.")


if __name__ == "__main__":
    main()
