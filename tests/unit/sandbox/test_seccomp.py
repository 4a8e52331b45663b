"""The seccomp profile matches its generator, whose lists do not contradict each other."""

import importlib.util
import json
from errno import ENOSYS
from pathlib import Path
from types import ModuleType

import pytest

from rlm.sandbox.docker.image import seccomp_profile

PR_SET_SECCOMP, PR_SET_MM, PR_SCHED_CORE = 22, 35, 62  # linux/prctl.h
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
    allowed += [name for name, _, _ in generator.CONDITIONAL]
    denied = [name for names in generator.DENIED.values() for name in names.split()]
    denied += generator.NO_OPS.split()
    assert len(set(allowed)) == len(allowed)
    assert not set(allowed) & set(denied)


def test_everything_that_is_not_named_is_refused_and_32_bit_programs_have_no_rules(generator: ModuleType) -> None:
    profile = json.loads(seccomp_profile())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]
    actions = {name: rule["action"] for rule in profile["syscalls"] for name in rule["names"]}
    answered = {name: rule["errnoRet"] for rule in profile["syscalls"] for name in rule["names"] if "errnoRet" in rule}
    assert answered == {"clone3": ENOSYS} | dict.fromkeys(
        ["fdatasync", "fsync", "msync", "sync", "sync_file_range", "syncfs"], 0
    )
    assert {actions.pop(name) for name in answered} == {"SCMP_ACT_ERRNO"}
    assert set(actions.values()) == {"SCMP_ACT_ALLOW"}
    never = (
        "ptrace bpf mount unshare setns keyctl add_key io_uring_setup userfaultfd perf_event_open socket personality "
        "io_setup io_submit ioprio_set sched_setattr seccomp"
    )
    assert not set(never.split()) & actions.keys()


def test_a_call_allowed_with_some_arguments_is_never_allowed_with_all() -> None:
    """A rule without conditions would override all rules with conditions."""
    conditions: dict[str, list[tuple[int, str, int]]] = {}
    for rule in json.loads(seccomp_profile())["syscalls"]:
        for name in rule["names"]:
            tests = [(test["index"], test["op"], test["value"]) for test in rule.get("args", ())]
            conditions.setdefault(name, []).extend(tests or [(-1, "any", 0)])
    limited = {name: tests for name, tests in conditions.items() if (-1, "any", 0) not in tests}
    options = limited.pop("prctl")
    assert limited == {
        "clone": [(0, "SCMP_CMP_MASKED_EQ", 0x7E020000)],
        "memfd_create": [(1, "SCMP_CMP_MASKED_EQ", 4)],
        "mmap": [(3, "SCMP_CMP_MASKED_EQ", 0x40000)],
        "prlimit64": [(0, "SCMP_CMP_EQ", 0)],
        "sched_setaffinity": [(0, "SCMP_CMP_EQ", 0)],
        "setpriority": [(0, "SCMP_CMP_EQ", 0), (1, "SCMP_CMP_EQ", 0)],
        "socketpair": [(0, "SCMP_CMP_EQ", 1)],
    }
    assert {(place, kind) for place, kind, _ in options} == {(0, "SCMP_CMP_EQ")}
    assert not {PR_SET_SECCOMP, PR_SET_MM, PR_SCHED_CORE} & {value for _, _, value in options}
