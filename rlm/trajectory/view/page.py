"""The page of one or two runs: their data, embedded in the built viewer (sources: `viewer/` of the repository).

Texts of models, sandboxes and contexts never become markup. All of them are base64, in elements that browsers do not
run. The page's policy allows only the one script and the one style that this module embeds.
"""

from __future__ import annotations

import html
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Final

from rlm._util.text import printable
from rlm.trajectory.output import write_private_file
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.trajectory import Trajectory

from .page_data import run_data
from .text_store import TextStore, pack

DATA_VERSION: Final = 1  # version of the data that the viewer reads

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>Enable JavaScript to view this run. The page contains its own script and makes no requests.</noscript>
<script type="application/gzip" id="runs">{data}</script>
<script>{script}</script>
"""


def render_page(*runs: tuple[Trajectory, RunDetails]) -> str:
    """The HTML of one run, or of two side by side."""
    texts = TextStore()
    data = {"v": DATA_VERSION, "runs": [run_data(trajectory, details, texts) for trajectory, details in runs]}
    texts.flush()
    assets = files("rlm.trajectory.view") / "assets"
    script = (assets / "viewer.js").read_text("utf-8")
    style = (assets / "viewer.css").read_text("utf-8")
    head = _PAGE.format(
        policy=_policy(script, style),
        title=html.escape(" and ".join(printable(trajectory.run_id) for trajectory, _ in runs) + " - rlm"),
        style=style,
        script=script,
        data=pack(data),
    )
    pieces = [
        f'<script type="application/gzip" id="t{number}">{piece}</script>\n'
        for number, piece in enumerate(texts.pieces)
    ]
    return "".join([head, *pieces, '<script type="application/gzip" id="end"></script>\n</body>\n</html>\n'])


def write_page(file: Path, *runs: tuple[Trajectory, RunDetails]) -> None:
    """Write the page of one run, or of two side by side, to a file that only this user can read.

    Raises:
        ConfigError: The file is not writable.
    """
    write_private_file(file, render_page(*runs))


def _policy(script: str, style: str) -> str:
    """Allows one script and one style, no requests, and no string as markup."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(source: str) -> str:
    return "sha256-" + b64encode(sha256(source.encode("utf-8")).digest()).decode("ascii")
