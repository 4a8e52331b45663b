"""`rlm run` and other commands as a user runs them: pipes, Ctrl-C, a real engine, and a local model server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import pytest

from helpers.containers import containers
from helpers.processes import interrupt
from rlm.sandbox.docker.engine import default_engine
from rlm.sandbox.docker.image import image_name
from rlm.sandbox.docker.owner import owner_labels
from rlm.testing import FakeProvider, Fault

CELL = "```repl\nprint(llm_query('what is in ' + context[:10]))\n```"
RLM = str(Path(sys.executable).with_name("rlm"))


def plays(messages: Sequence[Mapping[str, Any]], model: str) -> str:
    if model == "sub":
        return "something"
    return CELL if len(messages) < 6 else "FINAL(a good\nanswer)"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(plays) as provider:
        yield provider


@pytest.fixture
def environment(provider: FakeProvider, tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "OPENAI_BASE_URL": provider.base_url,
        "OPENAI_API_KEY": "sk-0123456789012345",
        "RLM_MODEL": "root",
        "RLM_SUB_MODEL": "sub",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


def rlm(environment: Mapping[str, str], *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([RLM, *arguments], capture_output=True, text=True, env=environment, input=text, timeout=50)


def sentences(errors: str) -> list[str]:
    """Lines of standard error without the warning about an engine with known escapes."""
    return [line for line in errors.splitlines() if "known container escapes" not in line]


def test_a_pipes_text_is_asked_about_and_the_answer_is_all_that_is_on_standard_output(
    environment: dict[str, str], provider: FakeProvider
) -> None:
    done = rlm(environment, "run", "why did it fail?", "-", text="a log\r\nand more")
    assert (done.returncode, done.stdout) == (0, "a good\nanswer\n")
    turns = sentences(done.stderr)
    assert [line.split(":")[0] for line in turns if "  turn " in line] == [
        f"0  turn {turn} of 30" for turn in (1, 2, 3)
    ]
    assert turns[0].startswith("0  RLM on root, sandbox ")
    assert turns[4] == "0  answer (final, 3 turns): a good"
    assert turns[5].startswith("0  finished after ")
    assert turns[6].startswith("Cost: no price known ")
    assert turns[7].startswith("Run directory: ")
    assert len(turns) == 8
    assert [each.messages[-1]["content"] for each in provider.requests if each.body["model"] == "sub"] == [
        "what is in a log\r\nand"
    ] * 2
    (listed,) = json.loads(rlm(environment, "runs", "--json").stdout)
    assert (listed["query"], listed["state"], listed["calls"]) == ("why did it fail?", "finished", 5)


def shell(environment: Mapping[str, str], command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command with this `rlm`; a pipe's exit status is its first failing command's."""
    script = f"set -o pipefail; rlm() {{ '{RLM}' \"$@\"; }}; {command}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=50)


def only_run(environment: Mapping[str, str]) -> dict[str, Any]:
    (listed,) = json.loads(rlm(environment, "runs", "--json").stdout)
    return dict(listed)


@pytest.mark.parametrize("where", ["2> >(head -1)", "2> /dev/full", "2>&-", "-v 2> /dev/full", "-v 2>&-"])
def test_an_answer_is_printed_even_if_progress_cannot_be_written(environment: dict[str, str], where: str) -> None:
    done = shell(environment, f"echo text | rlm run why - {where}")
    assert (done.returncode, done.stdout.endswith("a good\nanswer\n")) == (0, True)
    assert only_run(environment)["state"] == "finished"


@pytest.mark.parametrize(
    ("where", "reason"), [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_an_answer_that_cannot_be_written_is_in_the_runs_directory(
    environment: dict[str, str], where: str, reason: str
) -> None:
    done = shell(environment, f"echo text | rlm run why - -q {where}")
    listed = only_run(environment)
    answer = Path(listed["directory"]) / "answer.txt"
    assert (done.returncode, answer.read_text(), listed["state"]) == (1, "a good\nanswer", "finished")
    assert sentences(done.stderr) == [f"rlm: Cannot write the answer to standard output: {reason}. It is in {answer}."]
    for command in ("runs", "runs --json", f"export {listed['run_id']} --to md"):
        done = shell(environment, f"rlm {command} {where}")
        assert (done.returncode, sentences(done.stderr)) == (1, [f"rlm: Cannot write to standard output: {reason}."])


def test_a_reader_that_closes_both_streams_ends_no_run_and_causes_no_error(environment: dict[str, str]) -> None:
    done = shell(environment, "echo text | rlm run why - 2>&1 | head -1")
    assert (done.stderr, len(done.stdout.splitlines())) == ("", 1)
    assert only_run(environment)["state"] == "finished"


def test_a_run_is_found_by_the_id_that_a_list_shows(environment: dict[str, str]) -> None:
    question = "why " * 60
    assert rlm(environment, "run", question, "-", "-q", text="text").returncode == 0
    name = only_run(environment)["run_id"]
    head, line = rlm(environment, "runs").stdout.splitlines()
    assert head.split() == ["run", "state", "calls", "cost", "question"]
    assert line.split(None, 4) == [name, "finished", "5", "unknown", question.strip()]
    assert rlm(environment, "replay", name[:20], "-q").returncode == 0
    assert "a good\nanswer" in rlm(environment, "export", name[:20], "--to", "md").stdout


def test_the_command_is_a_module_too_and_says_its_version(environment: dict[str, str]) -> None:
    module = subprocess.run([sys.executable, "-m", "rlm", "--version"], capture_output=True, text=True, timeout=50)
    assert (module.returncode, module.stdout) == (0, f"rlm {version('rlm')}\n")
    assert rlm(environment, "run", "-h").stdout == rlm(environment, "run", "--help").stdout != ""


def test_a_limit_that_ends_a_run_has_its_own_status_and_json_names_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.txt").write_text("text")
    done = rlm(environment, "run", "why?", str(tmp_path / "folder"), "--max-iterations", "1", "--json", "-q")
    printed = json.loads(done.stdout)
    assert (done.returncode, printed["stop_reason"]) == (3, "max_iterations")
    assert printed["usage"]["calls"] == printed["by_model"]["root"]["calls"] == 2
    assert Path(printed["run_dir"]).name == printed["run_id"]
    assert sentences(done.stderr) == ["Stopped at the limit of 1 turn. The answer may be incomplete."]


def test_an_unknown_model_and_a_missing_engine_are_one_sentence_each(
    environment: dict[str, str], provider: FakeProvider, tmp_path: Path
) -> None:
    provider.respond = lambda *asked: Fault(status=404, body={"error": {"message": "There is no model `root`."}})
    done = rlm(environment, "run", "why?", "-", "-q", text="text")
    assert (done.returncode, done.stdout, len(sentences(done.stderr))) == (2, "", 1)
    assert "404 Not Found: There is no model `root`. (check the model's name, --model or RLM_MODEL" in done.stderr
    environment |= {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "XDG_STATE_HOME": str(tmp_path / "other")}
    done = rlm(environment, "run", "why?", "-", text="text")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "does not answer" in done.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.serial
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_stops_a_run_leaves_no_container_and_the_run_can_be_resumed(
    environment: dict[str, str], provider: FakeProvider, times: int
) -> None:
    provider.latency = 0.15
    command = [RLM, "run", "why?", "-"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write("text")
        process.stdin.close()
        process.stdin = None
        while len(provider.requests) < 3:
            assert process.poll() is None
            time.sleep(0.001)
        began = time.monotonic()
        before = interrupt(process)
        if times == 2:
            process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert time.monotonic() - began < (5 if times == 1 else 1)
    assert (process.returncode, out) == (130, "")
    label = f"rlm.owner.pid={process.pid}"
    while times == 2 and containers(label):  # they end by themselves
        assert time.monotonic() - began < 10
        time.sleep(0.05)
    assert containers(label) == []
    *_, advice = (before + errors).splitlines()
    provider.latency = 0
    resume = advice.removeprefix("To continue this run: rlm ").split()
    done = rlm(environment, *resume, "-q")
    assert (done.returncode, done.stdout) == (0, "a good\nanswer\n")
    assert sentences(done.stderr) == []


def test_a_resumed_run_has_the_live_view_and_its_keys_and_q_ends_it_as_ctrl_c_does(
    environment: dict[str, str], provider: FakeProvider
) -> None:
    provider.respond = lambda *asked: Fault(status=400)
    assert rlm(environment, "run", "why?", "-", "-q", text="text").returncode == 1
    provider.respond, provider.latency = plays, 1.0
    listed = only_run(environment)
    command = ["script", "-qec", f"{RLM} resume {listed['run_id'][:18]}", "/dev/null"]  # on its own terminal
    with subprocess.Popen(
        command, env=environment | {"TERM": "xterm"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        seen = b""
        while b"running" not in seen:  # not just drawn: started
            seen += os.read(process.stdout.fileno(), 65_536)
            assert process.poll() is None, seen
        process.stdin.write(b"qy")
        process.stdin.flush()
        last = process.communicate(timeout=20)[0].decode().splitlines()[-2:]
    assert process.returncode == 130
    assert last == [
        "Interrupted. All containers have been removed.",
        f"To continue this run: rlm resume {listed['run_id']}",
    ]


def test_a_script_in_a_sandbox_is_one_object_too(environment: dict[str, str]) -> None:
    script = "import sys\nprint('out \\ud800'.encode('utf-8', 'replace'))\nprint('err', file=sys.stderr)\nsys.exit(7)"
    done = rlm(environment, "exec", "-", "--json", text=script)
    expected = {"status": 7, "problem": "", "stdout": "b'out ?'\n", "stderr": "err\n", "files": [], "skipped": []}
    assert (done.returncode, json.loads(done.stdout)) == (7, expected)


def test_the_doctor_says_where_settings_come_from_and_no_secret(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "rlm.toml").write_text("[limits]\nmax_rlms = 7")
    command = [RLM, "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=50)
    printed = json.loads(done.stdout)
    assert done.returncode == 0, printed
    assert "0123" not in done.stdout
    states = {each["part"]: each["state"] for each in printed["findings"]}
    assert (states["engine"], states["attach"], states["models"]) == ("ok", "ok", "ok")
    settings = {each["key"]: (each["value"], each["origin"]) for each in printed["settings"]}
    assert settings["openai_api_key"] == ("…2345", "environment")
    assert settings["limits.max_rlms"] == ("7", "rlm.toml")
    assert settings["limits.max_tokens"] == ("none", "default")
    assert settings["run_root"] == (str(tmp_path / "state/rlm/runs"), "default")


def docker(*arguments: str, text: str = "") -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, input=text).stdout.strip()


@pytest.mark.serial
def test_clean_removes_sandboxes_of_dead_processes_only(environment: dict[str, str]) -> None:
    gone = owner_labels() | {"rlm.owner.start": "1"}
    made = [
        docker("create", *[f"--label={key}={value}" for key, value in labels.items()], image_name())
        for labels in (gone, owner_labels())
    ]
    try:
        done = rlm(environment, "clean", "--yes")
        assert done.returncode == 0, done.stderr
        left = docker("ps", "-aq", "--no-trunc").split()
        assert [container in left for container in made] == [False, True]
    finally:
        docker("rm", "--force", made[1])


@pytest.mark.anyio
@pytest.mark.serial
async def test_an_image_that_a_container_uses_is_neither_found_nor_removed() -> None:
    engine = default_engine()
    image = docker("build", "--quiet", "-", text=f"FROM {image_name()}\nLABEL rlm.image=test")
    container = docker("create", image)
    try:
        assert image not in [each["Id"] for each in await engine.unused_images()]
        assert container[:12] in await engine.remove_image(image)
        docker("rm", container)
        assert image in [each["Id"] for each in await engine.unused_images()]
        assert await engine.remove_image(image) == ""
        assert image not in [each["Id"] for each in await engine.unused_images()]
        assert await engine.remove_image(image) == ""
    finally:
        await anyio.to_thread.run_sync(lambda: subprocess.run(["docker", "rm", "-f", container], capture_output=True))
