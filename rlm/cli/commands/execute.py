"""`rlm exec`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from rlm.cli.options import AsJson, a_path
from rlm.config import MIB
from rlm.errors import ConfigError

if TYPE_CHECKING:
    from rlm.sandbox.script import ScriptResult


def exec_(
    file: Annotated[str, typer.Argument(help="a Python script; - reads it from standard input")],
    arguments: Annotated[list[str] | None, typer.Argument(help="for the script, after --")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", help="a file that is its standard input; - passes on this command's")
    ] = None,
    put: Annotated[list[str] | None, typer.Option(help="PATH[:NAME]: a file that the script finds as NAME")] = None,
    get: Annotated[list[str] | None, typer.Option(help="NAME: a file that the script leaves; '*' takes all")] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(help="where files that were got are written; default: here; for '*' a new folder", parser=a_path),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="of the script's own time")] = 60.0,
    memory: Annotated[int | None, typer.Option(min=128, help="in MiB", show_default="512")] = None,
    runtime: Annotated[str | None, typer.Option(help="the engine's; runsc is gVisor")] = None,
    as_json: AsJson = False,
) -> None:
    """Run any Python script in a locked sandbox: no network, no files but those given, bounded memory and time.

    With --json, one object: status, problem, stdout, stderr, files and skipped (sentences on files that were not taken).

    Exit status: the script's own; 1 for an exception, or when a file asked for by name is not there; 124 out of time, 137
    killed, 2 for a command that cannot be.
    """
    import anyio

    from rlm._util.text import printable
    from rlm.cli.output import write_json
    from rlm.cli.settings import settings
    from rlm.sandbox.script import run_script

    given = settings(sandbox={"runtime": runtime, "memory_bytes": None if memory is None else memory * MIB})
    if file == "-":
        name, script = "script.py", _read_script(file, "on standard input")
    else:
        name, script = Path(file).name, _read_script(file, file)
    inputs = dict(map(_put, put or ()))
    if file == input_ == "-":
        raise ConfigError("Standard input cannot be both the script and its input: give a file for one of them.")
    stdin = b"" if input_ is None else _read_input(input_)
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    kept: dict[str, list[str]] = {"stdout": [], "stderr": []}

    def keep(stream: Literal["stdout", "stderr"], text: str) -> None:
        kept[stream].append(text)

    def show(stream: Literal["stdout", "stderr"], text: str) -> None:
        target = streams[stream]
        target.write(printable(text) if target.isatty() else text)
        target.flush()

    async def work() -> ScriptResult:
        return await run_script(
            script,
            name=name,
            arguments=arguments or (),
            stdin=stdin,
            inputs=inputs,
            outputs=get or (),
            out_dir=out_dir or (Path() if get and "*" not in get else None),
            seconds=seconds,
            config=given.sandbox,
            on_output=keep if as_json else show,
        )

    done = anyio.run(work)
    if as_json:
        texts = {stream: "".join(texts) for stream, texts in kept.items()}
        files = list(map(str, done.files))
        write_json(
            {"status": done.status, "problem": done.problem, **texts, "files": files, "skipped": list(done.skipped)}
        )
        raise typer.Exit(done.status)
    if done.problem:
        sys.stderr.write(f"rlm: {printable(done.problem)}\n")
    for sentence in done.skipped:
        sys.stderr.write(f"rlm: {printable(sentence)}\n")
    for path in done.files:
        sys.stderr.write(f"rlm: wrote {path}\n")
    raise typer.Exit(done.status)


def _read_script(said: str, shown: str) -> str:
    try:
        with _opened(said, "script") as file, io.TextIOWrapper(file, encoding="utf-8") as text:
            return text.read()
    except OSError as error:
        raise ConfigError(
            f"The script {shown} cannot be read ({error.strerror}): give a Python file, or - for standard input."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The script {shown} is not UTF-8 text: give a Python file.") from error


def _read_input(said: str) -> bytes:
    """A file's bytes, or those of standard input."""
    from rlm.sandbox.script import MAX_INPUT_BYTES

    try:
        with _opened(said, "input") as file:
            data = file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"The input {said} cannot be read ({error.strerror}): give a file, or -.") from error
    if len(data) > MAX_INPUT_BYTES:
        raise ConfigError(f"The input has more than {MAX_INPUT_BYTES:,} bytes: give the script a part of it.")
    return data


def _opened(said: str, what: str) -> BinaryIO:
    """A file, or standard input. Raises ConfigError where the latter is closed."""
    if said != "-":
        return open(said, "rb")
    if sys.stdin is None:
        raise ConfigError(f"Standard input is closed: pipe the {what} in, or give a file.")
    return sys.stdin.buffer


def _put(said: str) -> tuple[str, Path]:
    """PATH[:NAME]"""
    path, _, name = said.rpartition(":") if ":" in said else (said, "", Path(said).name)
    if not Path(path).is_file():
        raise ConfigError(f"There is no file {path}: give one with --put PATH or --put PATH:NAME.")
    return name, Path(path)
