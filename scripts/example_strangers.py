"""Runs many untrusted scripts, each in its own sandbox, a few at a time: `example_strangers.py [COUNT] [CONCURRENT]`.

Most scripts compute something and leave a file; every tenth one attacks. The program counts the outcomes.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import anyio

from rlm import ConfigError, Sandbox, SandboxConfig, SandboxDied, SandboxMisbehaved

HONEST = """
import json
numbers = [int(line) for line in open('numbers.txt')]
json.dump({'sum': sum(numbers)}, open('result.json', 'w'))
"""
ATTACKS = [
    "while True: pass",
    "import os\nwhile True: os.fork()",
    "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "import urllib.request\nurllib.request.urlopen('http://169.254.169.254/')",
    "import os\nos.symlink('/etc/passwd', 'result.json')",
    "import os\nos.kill(-1, 9)",
]
# The share of one script: multiply the memory by the number of concurrent scripts.
POLICY = SandboxConfig(memory_bytes=256 << 20, cpus=0.5, tmp_bytes=8 << 20, max_output_bytes=64 << 10)
SECONDS = 2.0
RESULT_BYTES = 10_000


async def run_one(number: int) -> str:
    """The outcome of script `number`."""
    script = ATTACKS[number // 10 % len(ATTACKS)] if number % 10 == 9 else HONEST
    try:
        async with Sandbox(POLICY) as sandbox:
            await sandbox.put("numbers.txt", "\n".join(str(n) for n in range(number)))
            done = await sandbox.run(script, seconds=SECONDS)
            if done.outcome != "ok":
                return done.outcome
            result = await sandbox.get("result.json", max_bytes=RESULT_BYTES)
            return "right" if result == b'{"sum": %d}' % sum(range(number)) else "wrong"
    except (SandboxDied, SandboxMisbehaved):
        return "lost its sandbox"
    except ConfigError:
        return "left no result"


async def main(count: int, concurrent: int) -> None:
    outcomes: Counter[str] = Counter()
    limiter = anyio.CapacityLimiter(concurrent)

    async def work(number: int) -> None:
        async with limiter:
            outcomes[await run_one(number)] += 1

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(work, number)
    seconds = time.perf_counter() - began
    for outcome, times in outcomes.most_common():
        print(f"{times:5}  {outcome}")
    print(f"{count} scripts in {seconds:.0f} s: {count / seconds:.1f} a second, {concurrent} at once")


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    anyio.run(main, arguments[0] if arguments else 1000, arguments[1] if len(arguments) > 1 else 8)
