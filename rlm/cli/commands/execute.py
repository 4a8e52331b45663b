"""`rlm exec`: a Python script in a sandbox."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from rlm.cli.options import AsJson, Runtime, nonempty_path
from rlm.config import MIB
from rlm.errors import ConfigError

if TYPE_CHECKING:
    from rlm.sandbox.script import ScriptResult


def exec_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A Python script; - reads it from standard input")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGUMENTS]", help="Arguments for the script")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", help="File for the script's standard input; - passes on this command's"),
    ] = None,
    put: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH[:NAME]", help="Give the script a file, as NAME in its working directory"),
    ] = None,
    get: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Fetch a file that the script wrote; '*' fetches all")
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            help="Output directory for fetched files (default: current directory; for '*' a new folder)",
            parser=nonempty_path,
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time limit of the script in seconds")] = 60.0,
    memory: Annotated[int | None, typer.Option(min=128, help="Memory limit in MiB (default: 512)")] = None,
    runtime: Runtime = None,
    as_json: AsJson = False,
) -> None:
    """Run a Python script in a locked-down sandbox.

    The script has no network, only the files you pass, and bounded memory
    and time. --json prints one object: status, problem, stdout, stderr,
    files, and skipped (why files were not fetched).

    Exit status: the script's own; 1 also for an exception or a missing
    file of --get, 2 invalid usage, 124 timeout, 137 killed.
    """
    import anyio

    from rlm._util.text import printable
    from rlm.cli.output import write_json
    from rlm.cli.settings import load_settings
    from rlm.sandbox.script import run_script

    settings = load_settings(sandbox={"runtime": runtime, "memory_bytes": None if memory is None else memory * MIB})
    if file == "-":
        name, script = "script.py", _read_script(file, "on standard input")
    else:
        name, script = Path(file).name, _read_script(file, file)
    inputs = dict(map(_put, put or ()))
    if file == input_ == "-":
        raise ConfigError("Standard input cannot be both the script and its input: use a file for one of them.")
    stdin = b"" if input_ is None else _read_input(input_)
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    output: dict[str, list[str]] = {"stdout": [], "stderr": []}

    def collect(stream: Literal["stdout", "stderr"], text: str) -> None:
        output[stream].append(text)

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
            config=settings.sandbox,
            on_output=collect if as_json else show,
        )

    done = anyio.run(work)
    if as_json:
        texts = {stream: "".join(texts) for stream, texts in output.items()}
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


def _read_script(path: str, shown: str) -> str:
    try:
        with _open(path, "script") as file, io.TextIOWrapper(file, encoding="utf-8") as text:
            return text.read()
    except OSError as error:
        raise ConfigError(
            f"Cannot read the script {shown} ({error.strerror}): use a Python file, or - for standard input."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The script {shown} is not UTF-8 text: use a Python file.") from error


def _read_input(path: str) -> bytes:
    """The bytes of a file or of standard input."""
    from rlm.sandbox.script import MAX_INPUT_BYTES

    try:
        with _open(path, "input") as file:
            data = file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read the input {path} ({error.strerror}): use a file, or -.") from error
    if len(data) > MAX_INPUT_BYTES:
        raise ConfigError(f"The input is larger than {MAX_INPUT_BYTES:,} bytes: pass a part of it.")
    return data


def _open(path: str, content: str) -> BinaryIO:
    """A file, or standard input. Raises ConfigError if standard input is closed."""
    if path != "-":
        return open(path, "rb")
    if sys.stdin is None:
        raise ConfigError(f"Standard input is closed: pipe the {content} in, or name a file.")
    return sys.stdin.buffer


def _put(text: str) -> tuple[str, Path]:
    """The name and path in `PATH[:NAME]`."""
    path, _, name = text.rpartition(":") if ":" in text else (text, "", Path(text).name)
    if not Path(path).is_file():
        raise ConfigError(f"No such file: {path}. Use --put PATH or --put PATH:NAME.")
    return name, Path(path)
