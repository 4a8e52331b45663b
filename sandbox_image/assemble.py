"""Builds the image's file system in /rootfs from an explicit list, so that it contains nothing else.

Runs once, in the build stage of the image, with the image's own interpreter. Copies Python with its standard library and
shared libraries, time zones, the locale C.UTF-8, the wheels' contents, the protocol and the guest, then compiles all
modules. Shells, package managers, compilers, perl and setuid files stay out because nothing copies them. Standard library
only.
"""

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

BUILD = Path("/build")
ROOT = Path("/rootfs")
HOME = ROOT / "opt/rlm"

UNUSED = shutil.ignore_patterns(
    *("__pycache__", "config-*", "dist-packages", "ensurepip", "idlelib", "site-packages", "test", "tests"),
    *("tkinter", "turtledemo", "_tkinter*", "_test*", "_ctypes_test*", "sitecustomize.py", "EXTERNALLY-MANAGED"),
)
START = """\
import builtins
import sys
from _sitebuiltins import Quitter, _Helper

sys.path.insert(0, "/opt/rlm")
sys.argv[1:1] = ["--digest", {digest!r}]
builtins.exit, builtins.quit, builtins.help = Quitter("exit", "Ctrl-D"), Quitter("quit", "Ctrl-D"), _Helper()

from rlm_guest.supervisor import main

main()
"""


def inside(path: Path) -> Path:
    """The path in the new root for a file of the base."""
    return ROOT / path.relative_to("/")


def copy_file(path: Path) -> None:
    target = inside(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)  # content only: drops the owner, mode and capabilities of the base


def copy_python() -> None:
    interpreter = Path(sys.executable).resolve()
    copy_file(interpreter)
    for name in ("python3", "python"):
        inside(interpreter.with_name(name)).symlink_to(interpreter.name)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, inside(library), ignore=UNUSED, ignore_dangling_symlinks=True)


def copy_shared_libraries() -> None:
    """Copy every library that the interpreter or an extension module loads, according to the loader."""
    executable = Path(sys.executable).resolve()
    loader = next(Path("/").glob("lib*/ld-linux*"))
    extensions = [path for path in ROOT.rglob("*.so*") if path.is_file()]
    needed = {loader}
    for binary in (executable, *extensions):
        command = [str(loader), "--list", str(binary)]
        listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        paths = (Path(word) for word in listing.split() if word.startswith("/"))
        needed |= {path for path in paths if ROOT not in path.parents}
    needed |= {path.parent / "libgcc_s.so.1" for path in needed}  # glibc loads it when a thread is cancelled
    for path in needed:
        if path.is_file():
            copy_file(path)
    if Path("/etc/ld.so.cache").is_file():
        copy_file(Path("/etc/ld.so.cache"))


def copy_guest(digest: str) -> None:
    HOME.mkdir(parents=True)
    for wheel in sorted(BUILD.glob("wheels/*.whl")):
        zipfile.ZipFile(wheel).extractall(HOME)
    shutil.copytree(BUILD / "protocol", HOME / "rlm/protocol", ignore=UNUSED)
    shutil.copytree(BUILD / "rlm_guest", HOME / "rlm_guest", ignore=UNUSED)
    (HOME / "start.py").write_text(START.format(digest=digest))


def write_system_files() -> None:
    zones = Path("/usr/share/zoneinfo")
    if zones.is_dir():
        shutil.copytree(zones, inside(zones), symlinks=True, ignore=shutil.ignore_patterns("posix", "right"))
    locale = Path("/usr/lib/locale/C.utf8")  # the only one, which LANG names
    shutil.copytree(locale, inside(locale))
    (ROOT / "etc").mkdir(exist_ok=True)
    (ROOT / "etc/passwd").write_text("root:x:0:0::/:/none\nsandbox:x:65532:65532::/workspace:/none\n")
    (ROOT / "etc/group").write_text("root:x:0:\nsandbox:x:65532:\n")


def compile_everything() -> None:
    """Compile without checks: the file system is read-only, so a start need not compare sources."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(ROOT, quiet=2, stripdir=str(ROOT), prependdir="/", invalidation_mode=mode, workers=0)


def set_modes() -> None:
    """Nothing is setuid; only the interpreter and its loader are executable; only the scratch folders are writable."""
    for path in (path for path in ROOT.rglob("*") if not path.is_symlink()):
        runs = path.is_dir() or path.name.startswith("ld-linux") or path == inside(Path(sys.executable).resolve())
        path.chmod(0o755 if runs else 0o644)
    for name in ("tmp", "workspace"):
        (ROOT / name).mkdir()
        (ROOT / name).chmod(0o1777)


if __name__ == "__main__":
    copy_python()
    copy_guest(os.environ["DIGEST"])
    copy_shared_libraries()
    write_system_files()
    compile_everything()
    set_modes()
