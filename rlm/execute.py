"""A whole script in a sandbox, as `python FILE` would run it: arguments, streams, files in and out, exit status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .config import SandboxConfig
from .errors import SandboxDied, SandboxMisbehaved
from .sandbox.base import OnOutput
from .sandbox.container import DockerSandbox
from .sandbox.files import write_below

TIMED_OUT: Final = 124  # as timeout(1) has it
KILLED: Final = 137  # 128 + SIGKILL, as a shell has it

# Runs in the sandbox. The script is a module `__main__` of its own; its traceback begins with its own lines.
_RUN: Final = """\
def _run(path, arguments):
    import runpy, sys, traceback
    sys.argv = [path, *arguments]
    sys.path.insert(0, "")
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException as error:
        lines = error.__traceback__
        while lines is not None and lines.tb_frame.f_code.co_filename != path:
            lines = lines.tb_next
        traceback.print_exception(type(error), error, lines or error.__traceback__)
        return 1
    return 0
FINAL(_run({path!r}, {arguments!r}) & 255)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """How a script ended: its exit status (124: out of time, 137: killed), a sentence where that needs one, its files."""

    status: int
    problem: str
    files: tuple[Path, ...]


async def execute(
    script: str,
    *,
    name: str,
    arguments: Sequence[str] = (),
    inputs: Mapping[str, Path] | None = None,
    outputs: Sequence[str] = (),
    out_dir: Path | None = None,
    seconds: float,
    config: SandboxConfig,
    on_output: OnOutput,
) -> Executed:
    """Run a script in a sandbox of its own.

    Args:
        script: its text.
        name: of its file, relative to the working directory.
        arguments: `sys.argv[1:]`.
        inputs: by the name in the sandbox: files of the host, given by value.
        outputs: files that the script is asked for when it has ended; all that are there, if `*` is among them.
        out_dir: where these are written.
        seconds: of the script's own time.
        config: the sandbox's policy.
        on_output: is told its output as it comes.

    Raises:
        ConfigError: a file cannot be given or taken.
        EngineUnavailable, SandboxStartError: it cannot be run at all.
    """
    given = {name, *(inputs or {})}
    try:
        async with DockerSandbox(config) as sandbox:
            for target, path in (inputs or {}).items():
                await sandbox.put(target, path)
            await sandbox.put(name, script)
            code = _RUN.replace("{path!r}", repr(name)).replace("{arguments!r}", repr(list(arguments)))
            done = await sandbox.run(code, seconds=seconds, on_output=on_output)
            taken = []
            if out_dir is not None:
                there = await sandbox.files() if "*" in outputs else {}
                wanted = [output for output in outputs if output != "*"] + sorted(there.keys() - given)
                for output in wanted:
                    content = await sandbox.get(output, max_bytes=config.tmp_bytes)
                    taken.append(write_below(out_dir, output, content))
    except (SandboxDied, SandboxMisbehaved) as error:
        return Executed(status=KILLED, problem=str(error), files=())
    match done.outcome:
        case "ok" if done.answer is not None and done.answer.isdigit():
            status, problem = int(done.answer), ""
        case "timeout":
            status, problem = TIMED_OUT, done.error
        case "died":
            status, problem = KILLED, done.error
        case _:
            status, problem = 1, done.error
    return Executed(status=status, problem=problem, files=tuple(taken))
