"""No process of a cell lives on after it, and none writes into the output of a later cell."""

from __future__ import annotations

import pytest

from helpers.containers import ways
from rlm import Sandbox, SandboxConfig

pytestmark = pytest.mark.anyio

# `headless` starts a process and ends its first thread only, which the kernel then shows as a zombie. What floods and
# forks ignores errors: an attacker that gave up at the first one would leave nothing to find.
START = """
import ctypes, os, signal, threading, time
libc = ctypes.CDLL(None)
def flood():
    while True:
        try: os.write(1, b"FORGED\\n")
        except OSError: pass
        time.sleep(0.001)
def headless(work=flood):
    pid = os.fork()
    if pid == 0:
        threading.Thread(target=work).start()
        libc.syscall(60, 0)  # exit(2) of this thread
    for _ in range(100):  # gVisor never shows the zombie
        if open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z": break
        time.sleep(0.001)
"""

IN_A_SESSION = """
child = os.fork()
if child == 0:
    os.setsid()
    headless()
    os._exit(0)
os.waitpid(child, 0)
"""
IGNORES_SIGNALS = """
numbers = set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP}
for number in numbers: signal.signal(number, signal.SIG_IGN)
headless()
for number in numbers: signal.signal(number, signal.SIG_DFL)
"""
STOPPED = """
def stops():
    os.kill(os.getpid(), signal.SIGSTOP)
    flood()
headless(stops)
"""
FORKS = """
def forks():
    while True:
        try:
            if os.fork(): os._exit(0)
        except OSError: pass
        os.write(1, b"FORGED\\n")
headless(forks)
"""
SIBLING = """
if libc.syscall(56, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:  # clone(2) with CLONE_PARENT
    flood()
"""
PROGRAMS = {
    "a dead first thread": "headless()",
    "many dead first threads": "for _ in range(10): headless()",
    "dead first threads below another": "headless(lambda: [headless() for _ in range(3)])",
    "a dead first thread in a session of its own": IN_A_SESSION,
    "a dead first thread that ignores signals": IGNORES_SIGNALS,
    "a dead first thread of a stopped process": STOPPED,
    "a dead first thread while another forks": FORKS,
    "a child of the supervisor": SIBLING,
}

# Counts the processes with a running thread: a real zombie only waits for its parent.
PROCESSES = """
import glob, time
time.sleep(0.2)
def lives(task):
    try: return open(task).read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError: return False
print(len({task.split("/")[2] for task in glob.glob("/proc/[0-9]*/task/*/stat") if lives(task)}), "processes")
"""


@pytest.mark.parametrize("config", ways(daily=1))
@pytest.mark.parametrize("program", [pytest.param(code, id=name) for name, code in PROGRAMS.items()])
async def test_no_process_of_a_cell_outlives_it(program: str, config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        before = await sandbox.run(PROCESSES)
        left = await sandbox.run(START + program)
        assert left.outcome == "ok", left
        for _ in range(2):
            after = await sandbox.run(PROCESSES)
            assert (after.outcome, after.stdout) == ("ok", before.stdout)


@pytest.mark.parametrize("config", ways(daily=1))
async def test_no_process_of_a_cell_outlives_its_rollback_or_a_reset(config: SandboxConfig) -> None:
    async with Sandbox(config) as sandbox:
        before = await sandbox.run(PROCESSES)
        stopped = await sandbox.run(f"{START}headless()\nwhile True: time.sleep(1)", seconds=1.5)
        assert stopped.outcome == "timeout"
        assert (await sandbox.run(PROCESSES)).stdout == before.stdout
        await sandbox.run(f"{START}headless()")
        await sandbox.reset()
        assert (await sandbox.run(PROCESSES)).stdout == before.stdout
