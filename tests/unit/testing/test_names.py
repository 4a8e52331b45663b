"""The names that `rlm.testing` exports."""

import subprocess
import sys

import rlm.testing


def test_every_name_can_be_imported() -> None:
    assert all(getattr(rlm.testing, name) is not None for name in dir(rlm.testing))
    assert {"FakeProvider", "FakeSandboxes", "ScriptedModel", "run_virtually"} <= set(dir(rlm.testing))


def test_importing_it_loads_no_fake_and_no_library_of_a_real_part() -> None:
    code = "import sys, rlm.testing; print(*{'anyio', 'docker', 'openai', 'structlog'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"
