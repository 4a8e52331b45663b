"""The page of one run or two: the record and its texts, in the built viewer (`viewer/` in the repository has its sources).

Nothing that a model, a sandbox or a context said is markup here: all of it is in base64, in elements that no browser runs,
and the policy of the page lets the one script and the one style run that this module has put there.
"""

from __future__ import annotations

import html
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Final

from rlm._util.text import printable
from rlm.trajectory.extras import Extras
from rlm.trajectory.trajectory import Record

from .data import run_data
from .texts import Texts, packed

FORMAT: Final = 1  # of what the viewer reads

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
<noscript>This page shows the record of a run with its own script, which is switched off in this browser.</noscript>
<script type="application/gzip" id="record">{record}</script>
<script>{script}</script>
"""


def page(*runs: tuple[Record, Extras]) -> str:
    """The whole file, for one run or two side by side."""
    texts = Texts()
    data = {"v": FORMAT, "runs": [run_data(record, extras, texts) for record, extras in runs]}
    texts.close()
    assets = files("rlm.trajectory.view") / "assets"
    script = (assets / "viewer.js").read_text("utf-8")
    style = (assets / "viewer.css").read_text("utf-8")
    head = _PAGE.format(
        policy=_policy(script, style),
        title=html.escape(" and ".join(printable(record.run_id) for record, _ in runs) + " - rlm"),
        style=style,
        script=script,
        record=packed(data),
    )
    pieces = [
        f'<script type="application/gzip" id="t{number}">{piece}</script>\n'
        for number, piece in enumerate(texts.pieces)
    ]
    return "".join([head, *pieces, '<script type="application/gzip" id="end"></script>\n</body>\n</html>\n'])


def _policy(script: str, style: str) -> str:
    """No request to anywhere, one script, one style, and no string that becomes markup."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(source: str) -> str:
    return "sha256-" + b64encode(sha256(source.encode("utf-8")).digest()).decode("ascii")
