"""A whole script in a sandbox, as `python FILE` would run it: arguments, streams, files in and out, exit status."""

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

FAILED: Final = 1  # as Python ends after an exception
TIMED_OUT: Final = 124  # as timeout(1) has it
KILLED: Final = 137  # 128 + SIGKILL, as a shell has it
MAX_STATUS: Final = 255
MAX_INPUT_BYTES: Final = 256 * MIB  # of standard input: it lies in the sandbox's memory
ALL: Final = "*"  # all files that a script leaves, but those that shells and tools obey or hide by their name
UNASKED: Final = (".", "-")  # beginnings of such names: `.git/config`, `.envrc`, `--checkpoint-action=...`
MAX_TOLD: Final = 20  # sentences on single files; a script can leave thousands

# Runs in the sandbox. The script is a module `__main__` of its own, to the end of its threads; its traceback begins with its
# own lines. The worker never ends as a program does, so what Python does then is called here, by the names that it has in
# 3.11 and later: joining threads alone would wait for ever for those of an executor, which are told of the end first.
_RUN: Final = """\
def _run(path, arguments, given):
    import atexit, contextlib, os, sys, threading, traceback, types
    process, status = os.getpid(), 0
    if given:
        source = os.memfd_create("input")
        with open(source, "wb", closefd=False) as file:
            file.write(given)
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
    """How a script ended: its exit status (124: out of time, 137: killed), a sentence where that needs one, its files.

    `left_out` are sentences on files that were asked for and not taken.
    """

    status: int
    problem: str
    files: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()


async def execute(
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
        script: its text.
        name: of its file in the sandbox.
        arguments: what the script finds in `sys.argv` behind its name.
        stdin: its standard input.
        inputs: files that it finds: their name there, and the file of the host.
        outputs: files that the script is asked for when it has ended; with `*` among them all that it leaves, but none
            with a name, of a folder neither, that begins with `.` or `-`.
        out_dir: where these are written; for `*` it has to be new or empty, as the script chooses the names.
        seconds: of the script's own time.
        config: the sandbox's policy. All files together have at most `tmp_bytes`, each at most `max_value_bytes`.
        on_output: is told its output as it comes.

    Raises:
        ConfigError: a file cannot be given, or such files cannot be asked for.
        EngineUnavailable, SandboxStartError: it cannot be run at all.
    """
    given = {name, *(inputs or {})}
    _check_outputs(outputs, out_dir)
    taken = CollectedFiles()
    try:
        async with Sandbox(config, context_bytes=len(stdin)) as sandbox:
            for target, path in (inputs or {}).items():
                await sandbox.put(target, path)
            await sandbox.put(name, script)
            if stdin:
                await sandbox.load("_input", stdin)
            code = _RUN.replace("{path!r}", repr(name)).replace("{arguments!r}", repr(list(arguments)))
            done = await sandbox.run(code, seconds=seconds, on_output=on_output)
            if out_dir is not None:
                taken = await take(
                    sandbox,
                    outputs,
                    out_dir,
                    given=given,
                    max_bytes=config.tmp_bytes,
                    max_file_bytes=config.max_value_bytes,
                )
    except (SandboxDied, SandboxMisbehaved) as error:
        return ScriptResult(status=KILLED, problem=str(error))
    status, problem = _ended(done)
    if taken.missing and status == 0:
        status = FAILED
    return ScriptResult(status=status, problem=problem, files=tuple(taken.files), left_out=tuple(taken.left_out))


def _ended(done: CellResult) -> tuple[int, str]:
    """Exit status and sentence. What the sandbox says of its status is no more than text."""
    match done.outcome:
        case "ok" if re.fullmatch("[0-9]{1,3}", said := done.answer or "") and int(said) <= MAX_STATUS:
            return int(said), ""
        case "ok":
            return FAILED, "The script has ended with no status that there is."
        case "timeout":
            return TIMED_OUT, done.error
        case "died":
            return KILLED, done.error
        case _:
            return FAILED, done.error


@dataclass(slots=True, kw_only=True)
class CollectedFiles:
    """Files that were taken out of a sandbox, sentences on what was not, and how many of those were asked for by name."""

    files: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    missing: int = 0


async def take(
    sandbox: Sandbox,
    outputs: Sequence[str],
    out_dir: Path,
    *,
    given: Set[str] = frozenset(),
    max_bytes: int,
    max_file_bytes: int,
) -> CollectedFiles:
    """Write files of a sandbox below a folder: `outputs`, and where `*` is among them all but `given`.

    All together have at most `max_bytes`, each at most `max_file_bytes`. What cannot be had costs the others nothing.

    Raises:
        SandboxError: the sandbox is gone.
    """
    taken = CollectedFiles()
    wanted = dict.fromkeys(output for output in outputs if output != ALL)
    named = len(wanted)
    if ALL in outputs:
        wanted |= dict.fromkeys(await _all_files(sandbox, given, taken))
    left = max_bytes
    problems = []
    for number, path in enumerate(wanted):
        try:
            content = await sandbox.get(path, max_bytes=min(left, max_file_bytes))
            taken.files.append(write_below(out_dir, path, content))
            left -= len(content)
        except ConfigError as error:
            problems.append(str(error))
            taken.missing += number < named
    taken.left_out[:0] = problems[:MAX_TOLD]
    if len(problems) > MAX_TOLD:
        taken.left_out.append(f"{len(problems) - MAX_TOLD:,} more files could not be taken.")
    return taken


async def _all_files(sandbox: Sandbox, given: Set[str], taken: CollectedFiles) -> list[str]:
    """Those that `*` stands for, in order."""
    try:
        there = await sandbox.files()
    except ConfigError as error:
        taken.left_out.append(str(error))
        return []
    found = sorted(there.keys() - given)
    asked = [path for path in found if not any(part.startswith(UNASKED) for part in path.split("/"))]
    if len(asked) < len(found):
        count = len(found) - len(asked)
        taken.left_out.append(f"{count:,} files were left out whose names begin with . or -: ask for each by its name.")
    if there.left_out:
        taken.left_out.append(f"{there.left_out:,} files were left out: there are more than can be listed.")
    return asked


def _check_outputs(outputs: Sequence[str], out_dir: Path | None) -> None:
    """Raises ConfigError for what cannot be asked for, before anything is run."""
    for output in outputs:
        if output != ALL:
            check_path(output)
    if ALL not in outputs:
        return
    try:
        if out_dir is None or (out_dir.exists() and any(out_dir.iterdir())):
            raise ConfigError(
                "With `*` the script chooses the names of files, and could leave what other programs obey: give a folder "
                "that is new or empty with --out-dir."
            )
    except OSError as error:
        raise ConfigError(f"Nothing can be written to {out_dir} ({error.strerror}): choose another folder.") from error
