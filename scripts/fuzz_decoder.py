"""Runs the decoder under a coverage-guided fuzzer, until Ctrl-C. Needs `atheris` (pip install atheris).

    .venv/bin/python scripts/fuzz_decoder.py [-max_total_time=60] [-seed=1]

A crash is an input that raises any error except the protocol's, or a message that changes when encoded again.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports():
    from rlm.protocol.connection import Connection, Role
    from rlm.protocol.messages import ProtocolError, pack, unpack
    from rlm.sandbox.docker.attach import Demultiplexer


def fuzz_one(data: bytes) -> None:
    """Try an input as a frame's body, as a stream of frames, and as the engine's stream."""
    with contextlib.suppress(ProtocolError):
        again = pack(unpack(data))
        assert pack(unpack(again)) == again
    connection = Connection(Role.HOST)
    with contextlib.suppress(ProtocolError):
        connection.receive_data(data)
        while connection.next_message() is not None:
            pass
    with contextlib.suppress(ValueError):
        assert len(Demultiplexer().feed(data)) <= len(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
