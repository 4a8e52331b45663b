"""The command line: answers and tables on standard output, progress on standard error.

One module a command or a group of them; here they get their names. Nothing else imports this package. What a command needs
is imported when it runs, so that help and the shell's completion are there at once.

Exit status: 0 done (a wrong answer of a model is a result), 1 the system failed, 2 the command cannot be: what it was told,
or what it needs (a key, a model, Docker), is not there. Some commands have more: each says so in its help.
"""

from __future__ import annotations

import errno
import logging
import sys
from importlib.metadata import version
from typing import Annotated, Final, NoReturn

import typer

from rlm.errors import ConfigError, EngineUnavailable, ModelError, RLMError

from .commands import clean, doctor, evaluate, execute, export, image, niah, run, runs, view
from .streams import Sentences, mind_streams, silence

EXIT = "Exit status: 0 done, 1 failed, 2 the command cannot be; what a command has beyond these is in its own help."
OF_WRITING: Final = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EXIT,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlm {version('rlm')}")
        raise typer.Exit


@app.callback()
def rlm(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Recursive Language Models, run safely."""


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
    mind_streams()
    handler = logging.StreamHandler()
    handler.setFormatter(Sentences("rlm: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    try:
        app(prog_name="rlm")
    except RLMError as error:
        sentence, status = _told(error)
        sys.stderr.writelines([f"rlm: {line}\n" for line in [sentence, *getattr(error, "__notes__", ())]])
        sys.exit(status)
    except OSError as error:
        from rlm._util.text import printable

        sentence, status = _told_of_a_file(error)
        sys.stderr.write(f"rlm: {printable(sentence)}\n")
        sys.exit(status)
    sys.exit(0)


def _told(error: RLMError) -> tuple[str, int]:
    """The sentence and the exit status: 2 where the person who gave the command can mend it."""
    match error:
        case ModelError(status=401 | 403):
            return f"{error} (check OPENAI_API_KEY)", 2
        case ModelError(status=404):
            return f"{error} (check the model's name, --model or RLM_MODEL, and OPENAI_BASE_URL)", 2
        case ConfigError() | EngineUnavailable():
            return str(error), 2
    return str(error), 1


def _told_of_a_file(error: OSError) -> tuple[str, int]:
    """The same. Of an error without a name, its number tells where it came from."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return f"{error.filename}: {reason}.", 1
    if error.errno in OF_WRITING:
        silence(sys.stdout)
        return f"Standard output cannot be written: {reason}.", 1
    if isinstance(error, FileNotFoundError):
        return "The working directory has been removed: change to another one.", 2
    return f"{reason}.", 1
