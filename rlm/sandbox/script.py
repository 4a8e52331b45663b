"""Runs a script in a sandbox as `python FILE` would: arguments, streams, files in and out, exit status."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rlm.config import MIB, SandboxConfig
from rlm.errors import ConfigError, SandboxDied, SandboxMisbehaved
from rlm.sandbox.docker.container import Sandbox
from rlm.types import CellResult

from .base import OnOutput
from .files import check_path, write_below

FAILED_STATUS: Final = 1  # Python's exit status after an exception
TIMED_OUT_STATUS: Final = 124  # as timeout(1) reports it
KILLED_STATUS: Final = 137  # 128 + SIGKILL, as shells report it
MAX_STATUS: Final = 255
MAX_INPUT_BYTES: Final = 256 * MIB  # limit of standard input, which the sandbox keeps in memory
ALL_FILES: Final = "*"  # every file that a script leaves, except those with a prefix below
SKIPPED_PREFIXES: Final = (".", "-")  # names with a meaning for other tools: `.git/config`, `--checkpoint-action=...`
MAX_FILE_PROBLEMS: Final = 20  # messages on single files; a script can leave thousands

# Runs in the sandbox. The script becomes a separate module `__main__`; its traceback starts with its own lines. The worker
# never exits like a program, so this code runs Python's exit steps, by their names in 3.11 and later. Joining threads
# alone would hang on the threads of an executor, which learn of the exit only from `_shutdown`.
_RUN: Final = """\
def _run(path, arguments, stdin_bytes):
    import atexit, contextlib, os, sys, threading, traceback, types
    process, status = os.getpid(), 0
    if stdin_bytes:
        source = os.memfd_create("input")
        with open(source, "wb", closefd=False) as file:
            file.write(stdin_bytes)
        os.lseek(source, 0, os.SEEK_SET)
        os.dup2(source, 0)
        os.close(source)
    sys.argv = [path, *arguments]
    sys.path.insert(0, "")
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = path
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        exec(code, vars(main))
    except SystemExit as ended:
        if isinstance(ended.code, int):
            status = int.__and__(ended.code, 255)
        elif ended.code is not None:
            print(ended.code, file=sys.stderr)
            status = 1
    except BaseException as error:
        lines = error.__traceback__
        while lines is not None and lines.tb_frame.f_code.co_filename != path:
            lines = lines.tb_next
        traceback.print_exception(type(error), error, lines)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if os.getpid() != process:
        os._exit(status)
    return status
FINAL(_run({path!r}, {arguments!r}, globals().pop("_input", b"")))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptResult:
    """How a script ended.

    Attributes:
        status: Exit status (124: timed out, 137: killed).
        problem: Why the script failed, if the status alone does not explain it; otherwise empty.
        files: Files written on the host.
        skipped: A message for each requested file that could not be fetched.
    """

    status: int
    problem: str
    files: tuple[Path, ...] = ()
    skipped: tuple[str, ...] = ()


async def run_script(
    script: str,
    *,
    name: str,
    arguments: Sequence[str] = (),
    stdin: bytes = b"",
    inputs: Mapping[str, Path] | None = None,
    outputs: Sequence[str] = (),
    out_dir: Path | None = None,
    seconds: float,
    config: SandboxConfig,
    on_output: OnOutput | None = None,
) -> ScriptResult:
    """Run a script.

    Args:
        script: Source of the script.
        name: Name of its file in the sandbox.
        arguments: `sys.argv` after the name.
        stdin: Standard input.
        inputs: Files to copy in: name in the sandbox, and file of the host.
        outputs: Files to fetch after the script has ended. `*` fetches every file that it leaves, except paths with a
            part that starts with `.` or `-`.
        out_dir: Folder for fetched files. For `*` it must be new or empty, because the script chooses the names.
        seconds: Time limit of the script.
        config: Policy of the sandbox. Fetched files total at most `tmp_bytes`, each at most `max_value_bytes`.
        on_output: Receives output as it appears.

    Raises:
        ConfigError: An input is unreadable, or a request for outputs is invalid.
        EngineUnavailable, SandboxStartError: The sandbox did not start.
    """
    input_names = {name, *(inputs or {})}
    _check_outputs(outputs, out_dir)
    collected = CollectedFiles()
    try:
        async with Sandbox(config, context_bytes=len(stdin)) as sandbox:
            for target, path in (inputs or {}).items():
                await sandbox.put(target, path)
            await sandbox.put(name, script)
            if stdin:
                await sandbox.load("_input", stdin)
            code = _RUN.replace("{path!r}", repr(name)).replace("{arguments!r}", repr(list(arguments)))
            result = await sandbox.run(code, seconds=seconds, on_output=on_output)
            if out_dir is not None:
                collected = await collect_files(
                    sandbox,
                    outputs,
                    out_dir,
                    exclude=input_names,
                    max_bytes=config.tmp_bytes,
                    max_file_bytes=config.max_value_bytes,
                )
    except (SandboxDied, SandboxMisbehaved) as error:
        return ScriptResult(status=KILLED_STATUS, problem=str(error))
    status, problem = _exit_status(result)
    if collected.missing and status == 0:
        status = FAILED_STATUS
    return ScriptResult(status=status, problem=problem, files=tuple(collected.files), skipped=tuple(collected.skipped))


def _exit_status(result: CellResult) -> tuple[int, str]:
    """Exit status and message. The status is untrusted text from the sandbox."""
    match result.outcome:
        case "ok" if re.fullmatch("[0-9]{1,3}", text := result.answer or "") and int(text) <= MAX_STATUS:
            return int(text), ""
        case "ok":
            return FAILED_STATUS, "The script ended with an invalid exit status."
        case "timeout":
            return TIMED_OUT_STATUS, result.error
        case "died":
            return KILLED_STATUS, result.error
        case _:
            return FAILED_STATUS, result.error


@dataclass(slots=True, kw_only=True)
class CollectedFiles:
    """Files fetched from a sandbox.

    Attributes:
        files: Their paths on the host.
        skipped: Messages on files that were not fetched.
        missing: How many of those were requested by name.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: int = 0


async def collect_files(
    sandbox: Sandbox,
    outputs: Sequence[str],
    out_dir: Path,
    *,
    exclude: Set[str] = frozenset(),
    max_bytes: int,
    max_file_bytes: int,
) -> CollectedFiles:
    """Write files of a sandbox below a folder. A failed file does not affect the others.

    Args:
        sandbox: Source of the files.
        outputs: Paths in the sandbox; `*` stands for all files.
        out_dir: Target folder.
        exclude: Paths that `*` does not include.
        max_bytes: Limit on the total size.
        max_file_bytes: Limit on the size of each file.

    Raises:
        SandboxError: The sandbox is gone.
    """
    collected = CollectedFiles()
    paths = dict.fromkeys(output for output in outputs if output != ALL_FILES)
    named = len(paths)
    if ALL_FILES in outputs:
        paths |= dict.fromkeys(await _all_files(sandbox, exclude, collected))
    remaining = max_bytes
    problems = []
    for number, path in enumerate(paths):
        try:
            content = await sandbox.get(path, max_bytes=min(remaining, max_file_bytes))
            collected.files.append(write_below(out_dir, path, content))
            remaining -= len(content)
        except ConfigError as error:
            problems.append(str(error))
            collected.missing += number < named
    collected.skipped[:0] = problems[:MAX_FILE_PROBLEMS]
    if len(problems) > MAX_FILE_PROBLEMS:
        collected.skipped.append(f"{len(problems) - MAX_FILE_PROBLEMS:,} more files could not be fetched.")
    return collected


async def _all_files(sandbox: Sandbox, exclude: Set[str], collected: CollectedFiles) -> list[str]:
    """The sorted paths that `*` stands for."""
    try:
        listing = await sandbox.files()
    except ConfigError as error:
        collected.skipped.append(str(error))
        return []
    found = sorted(listing.keys() - exclude)
    paths = [path for path in found if not any(part.startswith(SKIPPED_PREFIXES) for part in path.split("/"))]
    if len(paths) < len(found):
        count = len(found) - len(paths)
        collected.skipped.append(
            f"{count:,} files were skipped because a name starts with . or -: request each by name."
        )
    if listing.skipped:
        collected.skipped.append(
            f"{listing.skipped:,} files were skipped: the sandbox has more than the list can hold."
        )
    return paths


def _check_outputs(outputs: Sequence[str], out_dir: Path | None) -> None:
    """Raise ConfigError for invalid outputs before anything runs."""
    for output in outputs:
        if output != ALL_FILES:
            check_path(output)
    if ALL_FILES not in outputs:
        return
    try:
        if out_dir is None or (out_dir.exists() and any(out_dir.iterdir())):
            raise ConfigError(
                "With `*` the script chooses file names, which other programs might interpret: "
                "set --out-dir to a new or empty folder."
            )
    except OSError as error:
        raise ConfigError(f"Cannot write to {out_dir} ({error.strerror}): choose another folder.") from error
