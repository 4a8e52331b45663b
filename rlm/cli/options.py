"""Options that several commands have, so that they are called and mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[
    Path | None, typer.Option("--runs", help="folder of the runs", show_default="run_root, else the user's state")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON value on standard output")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress: errors only")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="show every turn")]
