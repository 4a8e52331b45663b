"""The command line: answers and tables on standard output, progress on standard error. May import everything.

`commands` has one module per command or group. A command imports what it needs when it runs, so that help and shell
completion are instant.

Exit status: 0 success, 1 failure, 2 usage or environment error (an invalid option or setting; a missing key, model or
Docker). A model's wrong answer is a success. Some commands define more: see their help.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, Final, NoReturn

import typer

from rlm.errors import ConfigError, EngineUnavailable, ModelError, RLMError

from .commands import clean, doctor, evaluate, execute, export, image, niah, run, runs, view
from .streams import SentenceFormatter, harden_stdio, silence

EPILOG: Final = "Exit status: 0 success, 1 failure, 2 invalid usage. See each command's help for others."
WRITE_ERRORS: Final = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"rlm {version('rlm')}")
        raise typer.Exit


@app.callback()
def rlm(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run Recursive Language Models safely."""


app.command()(run.run)
app.command("exec")(execute.exec_)
app.command()(runs.runs)
app.command()(runs.resume)
app.command()(runs.replay)
app.command()(view.view)
app.command()(export.export)
app.command()(doctor.doctor)
app.command()(clean.clean)
app.add_typer(image.image, name="image")
app.add_typer(evaluate.evaluate, name="eval")
app.command()(niah.niah)


def main() -> NoReturn:
    """The `rlm` command."""
    harden_stdio()
    handler = logging.StreamHandler()
    handler.setFormatter(SentenceFormatter("rlm: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    try:
        app(prog_name="rlm")
    except RLMError as error:
        sentence, status = _exit_message(error)
        sys.stderr.writelines([f"rlm: {sentence}\n", *(f"{note}\n" for note in getattr(error, "__notes__", ()))])
        sys.exit(status)
    except OSError as error:
        from rlm._util.text import printable

        sentence, status = _exit_message_of_os_error(error)
        sys.stderr.write(f"rlm: {printable(sentence)}\n")
        sys.exit(status)
    sys.exit(0)


def _exit_message(error: RLMError) -> tuple[str, int]:
    """The sentence and the exit status: 2 if the user can fix the cause."""
    match error:
        case ModelError(status=401 | 403) if "OPENAI_API_KEY" not in str(error):
            return f"{error} (check OPENAI_API_KEY)", 2
        case ModelError(status=401 | 403):
            return str(error), 2
        case ModelError(status=404):
            return f"{error} (check the model's name, --model or RLM_MODEL, and OPENAI_BASE_URL)", 2
        case ConfigError() | EngineUnavailable():
            return str(error), 2
    return str(error), 1


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _exit_message_of_os_error(error: OSError) -> tuple[str, int]:
    """The same for an OSError. Without a file name, its number shows the cause."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return f"{error.filename}: {reason}.", 1
    if error.errno in WRITE_ERRORS:
        silence(sys.stdout)
        return f"Cannot write to standard output: {reason}.", 1
    if isinstance(error, FileNotFoundError) and not _has_working_directory():
        return "The working directory was removed. Change to another directory.", 2
    return f"{reason}.", 1
