"""RLMs in real containers solve Inspect's tasks, with its mock model and under its limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.agent import as_solver
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ChatMessage, GenerateConfig, ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import match

from rlm.integrations.inspect_ai import rlm_agent, rlm_solver

HAYSTACK = "\n".join(f"line {number}" for number in range(5_000)) + "\nThe door code is 4711.\n"
CELL = """```repl
import re
print(re.findall(r'code is (\\d+)', str(context)))
print(llm_query('sub: ' + str(context)[-30:]))
```"""


def plays(messages: list[ChatMessage], tools: object, choice: object, config: GenerateConfig) -> ModelOutput:
    """Root and sub-model in one: prints the context, then answers with the output."""
    if messages[0].role != "system":
        text = f"read {len(messages[-1].text)}"
    else:
        found = re.search(r"\['(\d+)'\]\nread (\d+)", messages[-1].text)
        text = f"FINAL({found[1]})" if found else CELL
    output = ModelOutput.from_content("mockllm/model", text)
    output.usage = ModelUsage(input_tokens=10, output_tokens=5, total_tokens=15)
    return output


def run(solver: object, tmp_path: Path, sample: Sample | None = None, **limits: int) -> EvalLog:
    task = Task(
        dataset=[sample or Sample(input="What is the door code?", target="4711", metadata={"context": HAYSTACK})],
        solver=solver,  # type: ignore[arg-type]
        scorer=match(),
    )
    model = get_model("mockllm/model", custom_outputs=plays)
    (log,) = evaluate(task, model=model, log_dir=str(tmp_path / "logs"), display="none", **limits)
    return log


def test_a_sample_is_solved_from_the_context_in_its_metadata(tmp_path: Path) -> None:
    log = run(rlm_solver(depth=1, run_root=tmp_path), tmp_path)
    assert log.status == "success", log.error
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 1
    (sample,) = log.samples or []
    assert sample.output.completion == "4711"
    assert sample.store["rlm"]["calls"] == 3
    assert sample.store["rlm"]["sub_calls"] == 1
    assert (Path(sample.store["rlm"]["run_dir"]) / "journal.sqlite").is_file()
    assert sum(event.event == "model" for event in sample.events) == 3  # Inspect's own record of the calls


def test_a_sample_without_context_is_asked_with_its_input_and_a_file_is_read(tmp_path: Path) -> None:
    log = run(rlm_solver(run_root=tmp_path), tmp_path, Sample(input=HAYSTACK + "What is the code?", target="4711"))
    assert (log.samples or [])[0].output.completion == "4711"
    (tmp_path / "text").write_text(HAYSTACK)
    sample = Sample(input="What is it?", target="4711", metadata={"context": f"file:{tmp_path / 'text'}"})
    log = run(rlm_solver(run_root=tmp_path), tmp_path, sample)
    assert (log.samples or [])[0].output.completion == "4711"


def test_limits_of_inspect_end_the_run(tmp_path: Path) -> None:
    log = run(rlm_solver(run_root=tmp_path), tmp_path, token_limit=1)
    (sample,) = log.samples or []
    assert sample.limit is not None
    assert sample.limit.type == "token"


def test_as_an_agent_it_answers_the_latest_message(tmp_path: Path) -> None:
    log = run(as_solver(rlm_agent(run_root=tmp_path)), tmp_path, Sample(input=HAYSTACK, target="4711"))
    assert log.status == "success", log.error
    assert (log.samples or [])[0].output.completion == "4711"


def test_the_sample_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text()
    (code,) = re.findall(r"```python inspect\n(.*?)```", page, re.DOTALL)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "contract.txt").write_text(HAYSTACK)
    names: dict[str, object] = {}
    exec(compile(code, "inspect.md", "exec"), names)
    model = get_model("mockllm/model", custom_outputs=plays)
    (log,) = evaluate(names["contracts"](), model=model, log_dir=str(tmp_path / "logs"), display="none")  # type: ignore[operator]
    assert log.status == "success", log.error
