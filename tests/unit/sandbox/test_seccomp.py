"""The profile of system calls is what its generator says, and the generator's lists do not contradict each other."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from rlm.sandbox.image import seccomp_profile

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "make_seccomp.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    found = importlib.util.spec_from_file_location("make_seccomp", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_file_is_what_the_generator_writes(generator: ModuleType) -> None:
    assert seccomp_profile() == generator.text()


def test_nothing_is_both_allowed_and_denied_or_allowed_twice(generator: ModuleType) -> None:
    allowed = [name for names in generator.ALLOWED.values() for name in names.split()]
    denied = [name for names in generator.DENIED.values() for name in names.split()]
    assert len(set(allowed)) == len(allowed)
    assert not set(allowed) & set(denied)


def test_everything_that_is_not_named_is_refused_and_32_bit_programs_have_no_rules(generator: ModuleType) -> None:
    profile = json.loads(seccomp_profile())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]
    actions = {name: rule["action"] for rule in profile["syscalls"] for name in rule["names"]}
    assert actions.pop("clone3") == "SCMP_ACT_ERRNO"
    assert set(actions.values()) == {"SCMP_ACT_ALLOW"}
    never = (
        "ptrace bpf mount unshare setns keyctl add_key io_uring_setup userfaultfd perf_event_open socket personality"
    )
    assert not set(never.split()) & actions.keys()
