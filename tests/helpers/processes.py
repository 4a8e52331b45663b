"""Programs that are sent signals."""

import os
import signal
import subprocess


def interrupt(process: subprocess.Popen[str]) -> str:
    """Send Ctrl-C to a command of `rlm`, and wait until it says so: two signals at a time may arrive as one.

    Returns what it wrote to standard error up to there.
    """
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    errors = ""
    while "Ctrl-C again" not in errors:
        data = os.read(process.stderr.fileno(), 4096)
        assert data, errors
        errors += data.decode()
    return errors
