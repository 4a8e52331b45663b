"""A cell that sends random messages on the worker's link to its supervisor, determined by `SEED` (set before this source).

It sends packets of every message with legal, almost legal and illegal fields, forged results and snapshots, and
descriptors of all kinds of files, some of which change while they are read. Threads and forked children send
concurrently. At the end it returns, raises, hangs, dies or closes the link.
"""

import contextlib
import os
import random
import signal
import socket
import threading
import time

import msgpack

import __main__
from rlm_guest import worker
from rlm_guest.link import Link

SEED: int = __main__.SEED
KINDS = ["Query"] * 8 + [
    "Result",
    "Loaded",
    "Output",
    "Chunk",
    "Ready",
    "Start",
    "Load",
    "Execute",
    "Reply",
    "Nonsense",
]
FIELDS = {
    "Query": "cell call batch prompt context context_kind model recurse",
    "Result": "cell outcome error answer stdout_bytes stderr_bytes snapshot seconds",
    "Loaded": "name ok type size error",
    "Output": "cell stream data",
    "Chunk": "stream data",
    "Ready": "version digest python",
    "Start": "version depth max_output_bytes worker_memory_bytes max_calls_in_flight max_value_bytes",
    "Load": "name kind value",
    "Execute": "cell code seconds calls",
    "Reply": "call ok text",
    "Nonsense": "x y",
}
BYTES_FIELDS = {"prompt", "context", "answer", "data", "value", "code", "text"}
TEXT_FIELDS = {"error", "name", "type", "model", "digest", "python"}
WRONG: list[object] = [
    None,
    True,
    -1,
    1.5,
    "",
    b"",
    [],
    {},
    [0],
    [0, -1],
    [1, 2, 3],
    2**64 - 1,
    float("nan"),
    "x" * 1000,
]

line = __main__.llm_query.__self__._link
stolen: list[socket.socket] = []


def file_of(choose, size):
    """A descriptor announced as a file of this size, which may be something else."""
    descriptor = os.memfd_create("x")
    os.truncate(descriptor, size)
    match choose.randrange(5):
        case 0:
            descriptor = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY)
        case 1:
            descriptor = os.open(f"/proc/self/fd/{descriptor}", os.O_PATH)
        case 2:
            threading.Thread(target=keep_resizing, args=(descriptor, size), daemon=True).start()
    return descriptor


def keep_resizing(descriptor, size):
    with contextlib.suppress(OSError):
        for _ in range(200):
            os.truncate(descriptor, 0)
            os.truncate(descriptor, size)


def any_descriptor(choose):
    match choose.randrange(9):
        case 0:
            return os.pipe()[choose.randrange(2)]
        case 1:
            return os.open(choose.choice(["/dev/zero", "/dev/null", "/dev/random"]), os.O_RDWR)
        case 2:
            return os.open(choose.choice(["/", "/proc", "/tmp"]), os.O_RDONLY)
        case 3:
            return os.open("/proc/self/mem", os.O_RDWR)
        case 4:
            kind = choose.choice([socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
            stolen.extend(ends := socket.socketpair(socket.AF_UNIX, kind))
            return ends[0].fileno()
        case 5:
            return os.eventfd(0)
        case 6:
            return line.fileno()
        case 7:
            return 1
        case _:
            return file_of(choose, choose.choice([0, 1, 40_000, 3 << 20]))


def field(choose, name, descriptors):
    """A value for a field of a message, possibly with a descriptor."""
    if choose.random() < 0.03:
        return choose.choice(WRONG)
    match name:
        case "prompt" | "context" | "answer" | "value" | "code" | "text" if choose.random() < 0.3:
            size = choose.choice([0, 1, 40_000, 3 << 20, 8 << 20, 2**63])
            descriptors.append(file_of(choose, min(size, 8 << 20)) if choose.random() < 0.8 else any_descriptor(choose))
            return [choose.choice([0, len(descriptors) - 1, 7]), size]
        case "context" | "answer" if choose.random() < 0.5:
            return None
        case "context_kind" | "kind":
            return choose.choice(["text", "bytes", "data", "file", "folder"])
        case "outcome":
            return choose.choice(["ok", "error", "timeout", "died"])
        case "recurse" | "ok" | "snapshot" | "calls":
            return choose.random() < 0.5
        case "seconds":
            return choose.choice([0.0, -1.0, 1e308, float("inf")])
        case _ if name in BYTES_FIELDS:
            return choose.randbytes(choose.choice([0, 1, 100, 30_000, 100_000]))
        case _ if name in TEXT_FIELDS:
            return choose.choice(["", "x", "\x1b[2J", "x" * 100_000, "\ud800"])
        case _:
            return choose.choice([0, 1, 2, choose.getrandbits(16), 2**32, 2**63, 2**64 - 1])


def packet(choose):
    descriptors = []
    roll = choose.random()
    if roll < 0.04:
        data = choose.randbytes(choose.choice([0, 1, 9, 1000]))
    elif roll < 0.12:
        data = worker.SNAPSHOT + choose.randbytes(choose.choice([0, 1, 4, 4, 30, 10_000]))
        descriptors = [any_descriptor(choose) for _ in range(choose.randrange(4))]
    else:
        kind = choose.choice(KINDS)
        fields = [field(choose, name, descriptors) for name in FIELDS[kind].split()]
        data = bytearray(msgpack.packb([kind, *fields], unicode_errors="surrogatepass"))
        if choose.random() < 0.03:
            data[choose.randrange(len(data))] = choose.randrange(256)
    return bytes(data), descriptors


def talk(choose, packets):
    for _ in range(packets):
        data, descriptors = packet(choose)
        with contextlib.suppress(OSError):
            socket.send_fds(socket.socket(fileno=os.dup(line.fileno())), [data], descriptors)
        for descriptor in descriptors:
            if descriptor > 2 and descriptor != line.fileno() and choose.random() < 0.9:
                with contextlib.suppress(OSError):
                    os.close(descriptor)


def change_what_comes(choose):
    """Forge the next snapshots, or keep a copy of the link that one of them will use."""
    make_pair = Link.pair

    def forged(self):
        pid = choose.choice([os.getpid(), 1, 2, os.getppid(), choose.getrandbits(22), choose.getrandbits(32)])
        self._link.send_bytes(
            worker.SNAPSHOT + pid.to_bytes(choose.choice([4, 5, 50]), "big"), [any_descriptor(choose)]
        )
        return False

    def kept():
        ours, theirs = make_pair()
        stolen.append(socket.socket(fileno=os.dup(theirs.fileno())))
        return ours, theirs

    if choose.random() < 0.5:
        worker.Worker._fork_snapshot = forged  # type: ignore[method-assign]  # that is the attack
    else:
        Link.pair = staticmethod(kept)  # type: ignore[method-assign]  # that is the attack


def read_what_is_not_ours(choose):
    for end in stolen:
        with contextlib.suppress(OSError):
            os.set_blocking(end.fileno(), choose.random() < 0.5)
            end.recv(1, socket.MSG_DONTWAIT)


def end(choose):
    match choose.randrange(8):
        case 0:
            os._exit(choose.randrange(256))
        case 1:
            os.kill(
                os.getpid(), choose.choice([signal.SIGSEGV, signal.SIGKILL, signal.SIGSTOP, 40, 64, signal.SIGUSR1])
            )
        case 2:
            time.sleep(60)
        case 3:
            os.close(line.fileno())
        case 4:
            raise ValueError("x" * choose.choice([1, 1_000_000]))
        case 5:
            __main__.FINAL("x" * choose.choice([1, 1_000_000]))


def main():
    choose = random.Random(SEED)
    packets = choose.choice([0, 1, 1, 3, 10, 100])
    if choose.random() < 0.2:
        change_what_comes(choose)
    for number in range(choose.choice([0, 0, 0, 2])):
        threading.Thread(target=talk, args=(random.Random(SEED + number), packets), daemon=True).start()
    if choose.random() < 0.2 and os.fork() == 0:
        while True:
            talk(choose, packets)
    talk(choose, packets)
    read_what_is_not_ours(choose)
    end(choose)


main()
