"""The page of the Python API says what the docstrings say."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "scripts" / "make_api.py"


def test_the_page_of_the_api_is_what_the_docstrings_say() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
