"""`SyncSandbox` mirrors `Sandbox`, and both import on systems without POSIX modules."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable

import pytest

from rlm import Sandbox, SyncSandbox
from rlm.sandbox.base import SandboxProtocol


def methods(cls: type) -> dict[str, Callable[..., object]]:
    public = {name: member for name, member in vars(cls).items() if name == "__init__" or not name.startswith("_")}
    return {name: member for name, member in public.items() if inspect.isfunction(member)}


def parameters(function: Callable[..., object]) -> list[tuple[str, object, object, object]]:
    """The signature without the type of `answer`, which is a coroutine function in one class only."""
    return [
        (each.name, each.kind, each.default, None if each.name == "answer" else each.annotation)
        for each in inspect.signature(function).parameters.values()
    ]


def test_sync_sandbox_has_the_methods_and_parameters_of_sandbox() -> None:
    assert methods(SyncSandbox).keys() == methods(Sandbox).keys()
    for name, method in methods(Sandbox).items():
        assert parameters(methods(SyncSandbox)[name]) == parameters(method), name


def test_the_sandbox_has_the_methods_and_parameters_of_the_protocol() -> None:
    for name, method in methods(SandboxProtocol).items():
        if name.startswith("__"):
            continue
        ours = parameters(methods(Sandbox)[name])
        theirs = parameters(method)
        assert [each[:3] for each in ours] == [each[:3] for each in theirs], name


def test_every_method_has_a_docstring_and_spells_out_its_parameters() -> None:
    for cls in (Sandbox, SyncSandbox):
        for name, method in methods(cls).items():
            assert name == "__init__" or method.__doc__, name
            kinds = {each.kind for each in inspect.signature(method).parameters.values()}
            assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}, name


@pytest.mark.parametrize("name", ["Sandbox", "SyncSandbox"])
def test_sandboxes_can_be_imported_without_posix_modules(name: str) -> None:
    missing = "dict.fromkeys(('fcntl', 'grp', 'pwd', 'resource', 'termios'))"
    code = f"import sys; sys.modules.update({missing}); from rlm import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
