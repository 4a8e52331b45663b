"""Every code sample in the README and the docs runs unchanged, and prints the output that the page shows.

Python runs with real containers and a provider on loopback, in a folder with the files that samples name. The fixture
`given` defines the names that samples assume (`context`, `orchestrator`). A block marked `python cell` is a cell of an
RLM. A block without a language directly after a sample is its output. Commands of `rlm` run in a shell, evaluations with
fewer and shorter instances. `rlm clean` is excluded: it would remove this machine's images.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rlm import Limits, Orchestrator, Price, SandboxConfig, ScriptedModel
from rlm import events as event_types
from rlm.cli import app
from rlm.testing import FakeProvider

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

RUN_ID = r"\d{8}-\d{6}-[0-9a-f]{8}"
_BLOCK = re.compile(r"^```(?P<info>[^`\n]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:.*\| *)?(?:\.venv/bin/)?rlm (?P<rest>[a-z].*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A block of code in a page; `printed` is the block without a language directly after it."""

    page: str
    line: int
    info: str
    body: str
    printed: str | None


def samples() -> Iterator[Sample]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = list(_BLOCK.finditer(text))
        for block, following in zip(blocks, [*blocks, None][1:], strict=True):
            beside = following is not None and not text[block.end() : following.start()].strip()
            output = following["body"] if following is not None and beside and not following["info"] else None
            line = text.count("\n", 0, block.start()) + 1
            yield Sample(
                page=page.relative_to(ROOT).as_posix(),
                line=line,
                info=block["info"].strip(),
                body=block["body"],
                printed=output,
            )


def of(*infos: str) -> list[object]:
    chosen = (sample for sample in samples() if sample.info in infos)
    return [pytest.param(sample, id=f"{sample.page}:{sample.line}") for sample in chosen]


def commands() -> list[object]:
    lines = (
        (sample, line.strip().removeprefix("$ "))
        for sample in samples()
        if sample.info in ("", "sh", "console")
        for line in sample.body.splitlines()
        if _COMMAND.match(line.strip())
    )
    return [
        pytest.param(line, id=f"{sample.page}: {line}", marks=pytest.mark.long if "rlm eval" in line else ())
        for sample, line in lines
        if "rlm clean" not in line
    ]


def answers(messages, model: str) -> str:
    return "FINAL(An answer.)" if messages[0]["role"] == "system" else "A reply."


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, object]]:
    """The folder, the environment and the names that samples assume."""
    for folder in ("reports", "contracts"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.txt").write_text("Text of a report.")
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    (tmp_path / "script.py").write_text("open('result.json', 'w').write('{}')")
    (tmp_path / "double.py").write_text("import sys\nprint([2 * int(word) for word in sys.argv[1:]])")
    (tmp_path / "add.py").write_text("print(sum(map(int, input().split())))")
    (tmp_path / "app.log").write_text("A line of a log.\n" * 1000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def lookup(name: str) -> str:
        """The entry of that name."""
        return name.upper()

    with FakeProvider(answers) as provider:
        monkeypatch.setenv("OPENAI_API_KEY", "key-of-a-test")
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
        yield {
            "Limits": Limits,
            "Orchestrator": Orchestrator,
            "Path": Path,
            "Price": Price,
            "SandboxConfig": SandboxConfig,
            **{name: value for name, value in vars(event_types).items() if isinstance(value, type)},
            "context": "A long text. " * 1000,
            "lookup": lookup,
            "orchestrator": Orchestrator(model="gpt-5"),
            "query": "What is it about?",
            "script": "open('result.json', 'w').write('{}')",
        }


@pytest.mark.parametrize("sample", of("python"))
def test_a_sample_runs_and_prints_what_the_page_shows(
    sample: Sample, given: Mapping[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    code = compile(sample.body, f"{sample.page}:{sample.line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = {"__name__": "__main__", **given}
    waiting = eval(code, names)
    if inspect.iscoroutine(waiting):
        asyncio.run(waiting)
    if sample.printed is not None:
        assert capsys.readouterr().out.strip() == sample.printed.strip()


@pytest.mark.parametrize("sample", of("python cell"))
def test_a_cell_runs_in_an_rlm(sample: Sample, tmp_path: Path) -> None:
    cell = textwrap.dedent(sample.body) + "\nFINAL('it ran')"
    root, sub = ScriptedModel([f"````repl\n{cell}\n````"]), ScriptedModel(lambda messages: "A reply.", name="sub")
    rlm = Orchestrator(model=root, sub_model=sub, run_root=tmp_path)
    assert rlm.completion("A long text. " * 1000, "q", limits=Limits(max_iterations=1)).answer == "it ran"


def test_the_output_in_the_tutorial_is_what_its_program_prints(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- output of (scripts/tutorial.py) -->\n```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert shown is not None
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, ROOT / shown[1]], env=env, stdout=subprocess.PIPE, text=True, timeout=50)
    assert done.stdout == shown[2], "run `make pictures`"


@pytest.mark.parametrize("line", commands())
@pytest.mark.timeout(180)  # an evaluation takes 20 s on a quiet machine
def test_a_command_runs_in_a_shell(line: str, given: Mapping[str, object], tmp_path: Path) -> None:
    """A run in a command was interrupted; a folder of results is created before it is resumed."""
    if re.search(RUN_ID, line):
        done = Orchestrator(model="gpt-5").completion("A long text. " * 1000, "q")
        about = json.loads((done.run_dir / "run.json").read_text())
        state = "interrupted" if "resume" in line else "finished"
        (done.run_dir / "run.json").write_text(json.dumps({**about, "state": state}))
        line = re.sub(RUN_ID, done.run_id, line)
    if "runs/" in line and "--out" not in line:
        for name in ("first", "second"):
            shell(f"rlm eval ruler/multikey_2 --method rlm:1 --model gpt-5 -n 1 --lengths 1k --out runs/{name}")
    ended = shell(line.replace("-n 50", "-n 1").replace("8k,32k", "1k"))
    assert ended.returncode == (2 if "--max-seconds 0" in line else 0), ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def shell(line: str) -> subprocess.CompletedProcess[str]:
    jq = "" if shutil.which("jq") else "jq() { cat; }; "
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", jq + line],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_commands_and_options_that_are_named_exist() -> None:
    seen = 0
    for sample in samples():
        for line in sample.body.splitlines() if sample.info in ("", "sh", "console") else ():
            if (match := _COMMAND.match(line.strip())) is None:
                continue
            seen += 1
            command: Any = typer.main.get_command(app)
            words = match["rest"].partition(" -- ")[0].split()
            while hasattr(command, "commands") and words:
                if words[0] not in command.commands and "run" in command.commands and command.name == "eval":
                    words.insert(0, "run")  # rlm eval TASK
                assert words[0] in command.commands, f"{sample.page}: there is no command {line!r}"
                command = command.commands[words.pop(0)]
            options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            for word in words:
                if word.startswith("--"):
                    assert word.partition("=")[0] in options | {"--help"}, f"{sample.page}: {line!r} has no {word}"
    assert seen
