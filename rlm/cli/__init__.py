"""The command line: answers and tables on standard output, progress on standard error.

One module a command or a group of them; here they get their names. Nothing else imports this package.

Exit status: 0 done (a wrong answer of a model is a result), 1 the system failed, 2 the command cannot be.
"""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer

from rlm.errors import ConfigError, RLMError
from rlm.view.command import view

from . import doctor, execute, niah, runs

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def rlm() -> None:
    """Recursive Language Models, run safely."""


app.command()(view)
app.command()(doctor.doctor)
app.command("exec")(execute.exec_)
app.command()(niah.niah)
app.command()(runs.runs)
app.command()(runs.resume)
app.command()(runs.replay)


def main() -> NoReturn:
    """The `rlm` command."""
    logging.basicConfig(format="rlm: %(message)s", level=logging.WARNING)
    try:
        app()
    except RLMError as error:
        sys.stderr.write(f"rlm: {error}\n")
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.stderr.write("rlm: interrupted; what was started has been removed.\n")
        sys.exit(130)
    sys.exit(0)
