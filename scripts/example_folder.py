"""A real folder as context: the source of the running Python's standard library, tens of megabytes.

The script computes the answer itself and compares. Runs offline: the scripted root model looks at the folder in one
cell and counts in another.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
import tempfile
from pathlib import Path

from rlm import Orchestrator, ScriptedModel

QUESTION = "How many classes whose name ends with Error are defined at the top level of the modules in this folder?"

LOOK = """```repl
print(len(context), "files,", sum(len(content) for content in context.values()), "characters and bytes")
print(sorted(context)[:5])
```"""
COUNT = """```repl
import re
sources = [content for name, content in context.items() if name.endswith(".py") and isinstance(content, str)]
names = [name for source in sources for name in re.findall(r"^class (\\w+Error)\\b", source, re.MULTILINE)]
print(len(sources), "modules")
FINAL(len(names))
```"""


def expected(folder: Path) -> int:
    """The same count on the host. A file that is not UTF-8 arrives as bytes in the sandbox and is not counted."""
    sources = [path.read_bytes() for path in folder.rglob("*.py") if path.is_file() and not path.is_symlink()]
    return sum(len(re.findall(rb"^class (\w+Error)\b", source, re.MULTILINE)) for source in sources if is_utf8(source))


def is_utf8(source: bytes) -> bool:
    try:
        source.decode()
    except UnicodeDecodeError:
        return False
    return True


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "python")
        ignored = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "config-*", "*.so", "*.exe")
        shutil.copytree(sysconfig.get_path("stdlib"), folder, ignore=ignored)
        done = Orchestrator(depth=0, model=ScriptedModel([LOOK, COUNT]), verbose=True).completion(folder, QUESTION)
        right = expected(folder)
    print(
        f"Answer: {done} (expected {right}, {'right' if done.answer == str(right) else 'WRONG'}). {done.seconds:.2f} s."
    )


if __name__ == "__main__":
    main()
