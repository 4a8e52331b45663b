"""An orchestrator says in words where it cannot work: in a forked process, and without asyncio."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rlm import ConfigError, Orchestrator
from rlm.models.scripted import ScriptedModel
from rlm.testing import FakeSandboxes

FORK = """
import os, sys
from rlm import ConfigError, Orchestrator
from rlm.models.scripted import ScriptedModel
from rlm.testing import FakeSandboxes

def use(opened):
    child = os.fork()
    if child == 0:
        try:
            opened()
        except ConfigError as error:
            print(str(error).partition(",")[0], flush=True)
        sys.exit(7)  # leaves the blocks, and the interpreter
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

orchestrator = Orchestrator(
    model=ScriptedModel(["FINAL(ok)"] * 9), sandbox_factory=FakeSandboxes(), run_root=sys.argv[1]
)
with orchestrator:
    use(lambda: orchestrator.completion("text", "q"))
    use(lambda: orchestrator.start("text", "q"))
    print(orchestrator.completion("text", "q").answer)
with orchestrator.session() as session:
    use(lambda: session.ask("q", "text"))
    print(session.ask("q", "text").answer)
def works(): print(Orchestrator(
    model=ScriptedModel(["FINAL(new)"]), sandbox_factory=FakeSandboxes(), run_root=sys.argv[1]
).completion("text", "q").answer, flush=True)
with orchestrator:
    use(works)
"""


def test_a_process_forked_while_an_orchestrator_is_open_gets_an_error_instead_of_hanging(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path)],
        capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    said = "This object was opened before the process was forked"
    assert done.stdout.splitlines() == [said, "7", said, "7", "ok", said, "7", "ok", "new", "7"], done.stderr


@pytest.mark.parametrize(
    "start",
    [
        lambda rlm: rlm.acompletion("text", "q"),
        lambda rlm: rlm.__aenter__(),
        lambda rlm: rlm.session().__aenter__(),
    ],
    ids=["acompletion", "async with", "async with session"],
)
def test_an_event_loop_other_than_asyncio_is_an_error_in_words(
    start: Callable[[Orchestrator], Coroutine[Any, Any, Any]], tmp_path: Path
) -> None:
    """A coroutine that another library runs finds no asyncio event loop, as here."""
    model = ScriptedModel(["FINAL(ok)"])
    coroutine = start(Orchestrator(model=model, sandbox_factory=FakeSandboxes(), run_root=tmp_path))
    with pytest.raises(ConfigError, match=r"rlm runs on asyncio only.*trio is not supported"):
        coroutine.send(None)
    assert not list(tmp_path.iterdir())
