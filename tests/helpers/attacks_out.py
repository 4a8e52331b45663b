"""Attacks through a sandbox's outputs: files that the host fetches, and names and arguments of host function calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from .attacks import KILLED, STOPPED, Attack

SECRET = "sk-of-the-host"


@dataclass
class Place:
    x: int
    y: int


def lookup(name: str, times: int = 1) -> list[str]:
    """A name and a count."""
    return [name[:100], str(times)]


def ask(question: str, *, api_key: str, **more: int) -> str:
    """Asks with the host's key."""
    return "ALLOWED" if api_key != SECRET or more != {"token": 5} else "asked"


def measure(place: Place) -> int:
    """A place's distance."""
    return place.x + place.y


TOOLS: Mapping[str, Callable[..., Any]] = {
    "lookup": lookup,
    "ask": partial(ask, api_key=SECRET, token=5),
    "measure": measure,
    "anything": lambda *given, **named: [len(given), len(named)],
}

# Tries each call; one that returns a value is ALLOWED.
REFUSED_CALLS = """
def refused(*calls):
    for call in calls:
        try: print('ALLOWED', call())
        except (ToolError, TypeError, OverflowError, ValueError) as error: print('refused:', str(error)[:200])
"""
# Sends raw bytes instead of arguments.
RAW = """
from rlm_guest import values
def raw(data):
    values.packed_for_host = lambda value: data
    try: print('got', anything())
    except ToolError as error: print('refused:', error)
"""
SWAPPED = """
import os, threading, time
open('mine', 'w').write('mine')
def swap():
    while True:
        for target in ('/etc/hostname', 'mine', '/proc/1/environ', '/proc/self/mem'):
            os.symlink(target, 'next'); os.rename('next', 'swapped')
        os.link('mine', 'next'); os.rename('next', 'swapped')
threading.Thread(target=swap, daemon=True).start()
time.sleep(0.1)
"""
GROWING = """
import threading, time
def grow():
    with open('growing', 'ab', buffering=0) as file:
        while True: file.write(bytes(10_000)) if file.tell() < 40_000_000 else file.truncate(0)
threading.Thread(target=grow, daemon=True).start()
time.sleep(0.1)
"""

OUTPUTS = [
    Attack(
        name="files with names that other programs obey",
        code="import os\nos.makedirs('.git/hooks'); os.makedirs('a/.b')\n"
        "for n in ('.git/config', '.git/HEAD', '.git/hooks/post-checkout', '.envrc', 'a/.b/c', '-rf', 'a/-x', 'seen'): open(n, 'w').write(n)",
        takes=("*",),
        sees=r"(?s)7 files were skipped.*wrote seen",
        outcomes=("ok",),
    ),
    Attack(
        name="links as files",
        code="import os\nfor n, t in (('link', '/etc/hostname'), ('etc', '/etc'), ('root', '/proc/1/root'), ('loop', 'loop'), ('fd', '/proc/self/fd')):\n"
        "    os.symlink(t, n)",
        takes=("*", "link", "etc/hostname", "root/etc/hostname", "loop", "fd/0"),
        sees=r"(?s)(could not read .*(symbolic links|Not a directory).*){5}",
        outcomes=("ok",),
    ),
    Attack(
        name="hard links to one large file",
        code="import os\nopen('large', 'wb').write(bytes(50 << 20))\nfor n in range(12): os.link('large', f'link{n}')",
        takes=("*",),
        sees=r"(?s)'link0' has more than.*wrote large",
        outcomes=("ok",),
    ),
    Attack(
        name="sparse files",
        code="for n in range(3): open(f'{n}', 'wb').truncate(60 << 20)\nopen('vast', 'wb').truncate(400 << 20)",
        takes=("*", "vast"),
        sees=r"(?s)'vast' has more than.*wrote 0",
        outcomes=("ok",),
    ),
    Attack(
        name="pipes and folders as files",
        code="import os\nos.mkdir('folder')\ntry: os.mkfifo('pipe')\nexcept OSError: print('no pipe')",
        takes=("*", "pipe", "folder"),
        sees=r"(?s)no pipe.*'pipe'.*'folder' is not a regular file",
        outcomes=("ok",),
    ),
    Attack(
        name="files of all modes",
        code="import os\nfor m in (0, 0o777, 0o4755, 0o6777, 0o1777):\n    open(f'{m:o}', 'w').write('x'); os.chmod(f'{m:o}', m)",
        takes=("*",),
        sees=r"(?s)Permission denied.*wrote 4755",
        outcomes=("ok",),
        gvisor={"sees": "wrote 4755"},  # there the supervisor is root
    ),
    Attack(
        name="names of all kinds",
        code="import os\nfor n in ('line\\nbreak', '\\x1b[2J', '\\udcff', '\\u202egpj', '\\u200c.git', 'x' * 255, 'CON', 'a:b', 'back\\\\slash', '$(id)', 'plain'):\n"
        "    open(n, 'w').close()\ndeep = '.'\nfor _ in range(40): deep += '/d'; os.mkdir(deep)\nopen(deep + '/bottom', 'w').close()",
        takes=("*", "line\nbreak", "\x1b[2J", "../../escape", "/etc/passwd", "a/../b", "x" * 300, "\udcff", ""),
        sees=r"(?s)not a plain relative path.*wrote plain",
        outcomes=("ok",),
    ),
    Attack(
        name="thousands of files with long names",
        code="for n in range(4500): open(f'{n:04}' + 'x' * 251, 'w').close()",
        takes=("*",),
        sees=r"\d+ files were skipped: the sandbox has more than the list can hold",
        outcomes=("ok",),
        gvisor={
            "sees": "more than the list can hold|" + STOPPED,
            "outcomes": ("ok", "timeout"),
        },  # it makes them slowly
    ),
    Attack(
        name="a file that changes while it is taken",
        code=GROWING,
        takes=("growing",),
        sees="wrote growing|has more than",
        outcomes=("ok",),
    ),
    Attack(
        name="a file that becomes a link while it is taken",
        code=SWAPPED,
        takes=("swapped", "next"),
        sees="wrote swapped|symbolic links|No such file",
        outcomes=("ok",),
    ),
]

CALLS = [
    Attack(
        name="arguments of wrong types",
        code=REFUSED_CALLS + "refused(*[lambda v=v: lookup(v) for v in (1, None, True, b'x', [], {}, 1.5)],\n"
        "    *[lambda v=v: lookup('x', times=v) for v in ('1', True, 1.0, float('nan'), None, 1 << 64)],\n"
        "    *[lambda v=v: measure(v) for v in ([1, 2], {'x': 1}, {'x': 'far', 'y': 2}, {'__class__': 1}, 'x')])",
        sees=r"(?s)(refused: .*){18}",
        outcomes=("ok",),
    ),
    Attack(
        name="arguments that are no plain data",
        code=REFUSED_CALLS + "loop = []; loop.append(loop)\nclass S(str): pass\n"
        "refused(lambda: anything(loop), lambda: anything(object()), lambda: anything({1, 2}), lambda: anything(lambda: 1), lambda: anything(1 << 70))",
        sees=r"(?s)(refused: .*){5}",
        outcomes=("ok",),
    ),
    Attack(
        name="arguments nested without end",
        code=RAW + r"for n in (500, 1000, 1020, 100_000): raw(b'\x93\0\x92\0' + b'\x92\0' * n + b'\xc0\x91\1')",
        sees=r"(?s)refused: The arguments are (nested too deeply|not plain data)",
        outcomes=("ok",),
    ),
    Attack(
        name="arguments that are a bomb",
        code=RAW + r"raw(b'\x93\0\xdd\x00\x10\x00\x01\0' + b'\x91\0' * (1 << 20) + b'\x91\1')" + "\n"
        r"raw(b'\x93\0\xdd\xff\xff\xff\xff\0'); raw(b'\x93\0\xdb\xff\xff\xff\xff\0'); raw(b'\x93\0\xdd\x00\x01\xff\x01\0' + b'\x91\1' * 0x1ff00 + b'\x91\1')",
        sees=r"(?s)at most 262,144.*not plain data.*not plain data.*got \[130816, 0\]",
        outcomes=("ok",),
    ),
    Attack(
        name="arguments of unknown kinds",
        code=RAW
        + r"for d in (b'', b'\xc1', b'\x90', b'\x92\0\x91\0', b'\x93\0\x91\1\x91\1', b'\x93\0\x91\0\x91\0', b'\x93\0\x91\0\x93\1\x01\x02', b'\x93\0\x92\0\xd6\xff1234\x91\1', b'\x93\0\x92\0\xc7\x00\x05\x91\1', b'\x93\0\x91\0\x93\1\x91\0\x01', b'\x93\0\x91\0\x80', b'\x92\x90\x80'): raw(d)",
        sees=r"(?s)(refused: The arguments are not plain data.*){12}",
        outcomes=("ok",),
    ),
    Attack(
        name="half characters as text",
        code="print(lookup('\\ud800'), anything(**{'\\udfff': '\\ud800'}))",
        sees=r"\[1, 0\]|\[0, 1\]",
        outcomes=("ok",),
    ),
    Attack(
        name="what a partial has bound",
        code=REFUSED_CALLS
        + "refused(lambda: ask('x', api_key='mine'), lambda: ask('x', token=6), lambda: ask('x', 'mine'))\n"
        "print(ask('x', other=1) if False else ask('x'), 'sk-' in repr(ask.__doc__) and 'ALLOWED')",
        sees=r"(?s)(refused: .*){3}asked False",
        outcomes=("ok",),
    ),
    Attack(
        name="names of functions that there are not",
        code=REFUSED_CALLS + "use = llm_query.__self__.use_tool\n"
        "refused(*[lambda n=n: use(n, (), {}) for n in ('', '__import__', 'eval', 'lookup ', 'Lookup', 'lookup.__globals__', 'x' * 1000, '\\x1b[2J', 'tools')])",
        sees=r"(?s)(refused: Unknown tool.*){9}",
        outcomes=("ok",),
    ),
    Attack(
        name="a name without end",
        code="llm_query.__self__.use_tool('x' * 50_000_000, (), {})",
        sees=KILLED + "|corrupted its link|Error",
        outcomes=("error", "died"),
    ),
    Attack(
        name="a name that is no text",
        code="llm_query.__self__.use_tool(7, (), {})",
        sees="corrupted its link|Error",
        outcomes=("error", "died"),
    ),
    Attack(
        name="thousands of calls at once",
        code="from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(40) as pool:\n"
        "    print(sum(len(v) for v in pool.map(lookup, ['x' * 1000] * 2000)))",
        sees="4000|" + STOPPED,
        outcomes=("ok", "timeout"),
    ),
    Attack(
        name="calls of a forked child",
        code="import os\nif os.fork() == 0:\n    for _ in range(100): lookup('child')\n    os._exit(0)\n"
        "for _ in range(100): lookup('parent')\nprint('on')",
        sees=r"on|" + STOPPED + "|" + KILLED,
        outcomes=("ok", "timeout", "died", "error"),
    ),
    Attack(
        name="calls after the cell",
        code="import threading\ndef f():\n    while True:\n        try: lookup('late')\n        except ToolError: pass\n"
        "threading.Thread(target=f, daemon=True).start()\nprint('on')",
        sees="on",
        outcomes=("ok",),
    ),
]
