"""The supervisor against a worker that sends anything: it survives, or ends with its own reason. The host receives only
legal messages.
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path
from textwrap import dedent

import pytest

from rlm import CellResult, Sandbox, SandboxConfig, SandboxDied, SandboxMisbehaved
from rlm.config import MIB
from rlm.sandbox.base import QueryReply, SandboxQuery

pytestmark = pytest.mark.anyio

HOSTILE = Path(__file__).with_name("hostile_worker.py").read_text()
CELL_SECONDS = 1.0
MOST_SECONDS = 8.0  # for such a cell and its clean-up; below the host's own timeout
CELLS = 12  # in one sandbox, if it survives
CONFIG = SandboxConfig(max_value_bytes=4 * MIB)  # values sent ahead reach this limit soon

# Expected reasons: the supervisor's own, exhausted memory, or a limit of the host.
TOLD = (
    r"Its last output: rlm guest: The cell |it ran out of memory|"
    r"not UTF-8|sent ahead|pending calls|more output than"
)

FOUND = {
    "a signal without a name": "import os\nos.kill(os.getpid(), 40)",
    "a value that is open for writing only": """
        import os, msgpack, socket, time
        fields = [1, 1, 0, [0, 5], None, "text", None, None]
        file = os.open("/tmp/x", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"12345")
        llm_query.__self__._link.send_bytes(msgpack.packb(["Query", *fields]), [file])
        time.sleep(60)
    """,
    "a snapshot whose line is no socket": """
        from rlm_guest import worker
        def forged(self):
            self._link.send_bytes(worker.SNAPSHOT + bytes([0, 0, 0, 9]), [0])
            return False
        worker.Worker._fork_snapshot = forged
    """,
    "a snapshot with a number that is no process": """
        import socket
        from rlm_guest import worker
        def forged(self):
            self.pair = socket.socketpair()
            self._link.send_bytes(worker.SNAPSHOT + b"\\xff" * 40, [self.pair[0].fileno()])
            return False
        worker.Worker._fork_snapshot = forged
    """,
    "questions without number whose answers nobody reads": """
        import msgpack
        fields = [1, 1, 0, b"", None, "text", None, None]
        while True:
            llm_query.__self__._link.send_bytes(msgpack.packb(["Query", *fields]))
    """,
    "a copy of the supervisor's own end of the line": """
        import os, socket
        from rlm_guest.link import Link
        make_pair = Link.pair
        def kept():
            global copy
            ours, theirs = make_pair()
            copy = socket.socket(fileno=os.dup(theirs.fileno()))
            return ours, theirs
        Link.pair = kept
    """,
}
AFTERWARDS = {
    "a copy of the supervisor's own end of the line": [
        "import os\nos._exit(1)",  # its snapshot becomes the worker, and owns both ends
        """
        import threading
        def steal():
            while True:
                copy.setblocking(True)
                copy.recv(100)
        threading.Thread(target=steal, daemon=True).start()
        while True:
            llm_query.__self__._link.send_bytes(b"x")
        """,
    ],
}


async def echo(query: SandboxQuery) -> QueryReply:
    return QueryReply(ok=True, text=query.prompt)


async def result_or_loss(sandbox: Sandbox, code: str) -> CellResult | None:
    """The result of a cell, or None if the sandbox was lost with a reason."""
    began = time.monotonic()
    try:
        return await sandbox.run(code, seconds=CELL_SECONDS, answer=echo)
    except (SandboxDied, SandboxMisbehaved) as error:
        lost = str(error)
    finally:
        assert time.monotonic() - began < MOST_SECONDS
    assert re.search(TOLD, lost), lost
    assert "Traceback" not in lost
    return None


@pytest.mark.parametrize("name", FOUND)
async def test_cells_that_once_killed_the_supervisor_cost_at_most_a_reported_sandbox(name: str) -> None:
    async with Sandbox() as sandbox:
        for code in [FOUND[name], *AFTERWARDS.get(name, []), "1", "2"]:
            if await result_or_loss(sandbox, dedent(code)) is None:
                return


async def fuzz(seed: int, seconds: float) -> None:
    """Run sandboxes in sequence, each with hostile and honest cells in turn.

    They run until the time is up and every outcome occurred; a test that misses an outcome times out.
    """
    print(f"RLM_FUZZ_SEED={seed}")
    cells = lost = 0
    outcomes: dict[str, int] = {}
    expected = {"ok", "error", "died"}
    until = time.monotonic() + seconds
    while time.monotonic() < until or not expected <= outcomes.keys():
        async with Sandbox(CONFIG) as sandbox:
            for _ in range(CELLS):
                cells += 1
                result = await result_or_loss(sandbox, f"SEED = {seed + cells}\n{HOSTILE}")
                if result is None or await result_or_loss(sandbox, "print('kept')") is None:
                    lost += 1
                    break
                outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
    print(f"{cells} cells, {lost} sandboxes lost, {outcomes}")


async def test_a_hostile_worker_costs_cells_or_its_own_sandbox() -> None:
    await fuzz(int(os.environ.get("RLM_FUZZ_SEED", "1000")), 8)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_a_hostile_worker_costs_only_cells_or_its_own_sandbox_for_minutes() -> None:
    seconds = float(os.environ.get("RLM_FUZZ_SECONDS", "100"))
    await fuzz(int(os.environ.get("RLM_FUZZ_SEED", random.getrandbits(30))), seconds)
