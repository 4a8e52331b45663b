"""Makes the pictures in docs/ and the outputs in its pages, from real runs with scripted models. Needs Docker.

The picture of `rlm view` also needs chromium. Without it, the committed picture stays.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.segment import Segment, Segments
from rich.terminal_theme import MONOKAI
from tutorial import QUESTION, orchestrator, tickets

from rlm import Completion, Limits
from rlm.events import SubCallFinished
from rlm.live.view import LiveView

ROOT: Final = Path(__file__).parents[1]
PICTURES: Final = ROOT / "docs" / "pictures"
WITH_OUTPUT: Final = (ROOT / "docs" / "tutorial.md", ROOT / "README.md")  # pages that show the output of commands
WIDTH, HEIGHT = 92, 26  # columns and lines of the terminal
TICKETS: Final = 320
LATENCY_SECONDS: Final = 0.7  # per reply: long enough for a screen of running calls
ANSWERED: Final = 250  # answered calls when the picture is taken, out of 324
LIMITS: Final = Limits(max_lm_calls=500, max_cost_usd=0.50, max_seconds=60)
PAGE: Final = (1280, 800)  # pixels of the browser's window


def live_picture(run_root: Path) -> Completion:
    """Take a picture of the live tree in the middle of a run."""
    console = Console(record=True, width=WIDTH, height=HEIGHT, force_terminal=True, file=io.StringIO())
    lines: list[list[Segment]] = []
    answered = 0
    with orchestrator(latency=LATENCY_SECONDS).start(
        tickets(TICKETS), QUESTION, limits=LIMITS, run_root=run_root
    ) as run:
        view = LiveView(run, console=console)
        for event in run:
            view(event)
            answered += isinstance(event, SubCallFinished)
            if answered == ANSWERED and not lines:
                lines = view.paint(WIDTH, HEIGHT)
        done = run.result()
    for line in lines:
        console.print(Segments([*line, Segment.line()]), end="")
    svg = console.export_svg(title="rlm", theme=MONOKAI)
    (PICTURES / "live.svg").write_text(without_downloads(svg), encoding="utf-8")
    return done


def without_downloads(svg: str) -> str:
    """The picture without fonts from the network. The reader's own monospace font replaces them."""
    svg = re.sub(r"\s*@font-face \{.*?\n    \}", "", svg, flags=re.DOTALL)
    return svg.replace("font-family: Fira Code, monospace;", "font-family: monospace;")


def page_picture(run_dir: Path) -> None:
    """Take a picture of the page that `rlm view` writes."""
    browser = shutil.which("chromium")
    if browser is None:
        print("chromium is missing: docs/pictures/view.png stays unchanged. Install chromium to make it.")
        return
    page = run_dir / "view.html"
    run("-m", "rlm", "view", "--no-open", "-o", str(page), str(run_dir))
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",  # as root in a container, the browser has none; it opens our own page only
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={PAGE[0]},{PAGE[1]}",
                "--virtual-time-budget=5000",
                f"--screenshot={PICTURES / 'view.png'}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


def run(*arguments: str) -> str:
    """The output of a Python program of the repository."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300, cwd=ROOT)
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def insert_outputs(page: Path) -> None:
    """Write the output of each marked command into the block below its mark."""
    text = page.read_text(encoding="utf-8")
    mark = re.compile(r"(<!-- output of (?P<command>[^>]+) -->\n```[a-z]*\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
    text = mark.sub(lambda match: match[1] + run(*match["command"].split()), text)
    page.write_text(text, encoding="utf-8")


def main() -> None:
    began = time.perf_counter()
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        done = live_picture(Path(folder))
        page_picture(done.run_dir)
    for page in WITH_OUTPUT:
        insert_outputs(page)
    print(f"Pictures and outputs made in {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
    main()
