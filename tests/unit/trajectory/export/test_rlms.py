"""A run as a log of the reference implementation has the fields of its types and of its viewer."""

import json
from pathlib import Path
from typing import Any

from rlm.events import RunStarted
from rlm.trajectory.export.rlms import log_lines
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.run_reader import read_run
from rlm.trajectory.trajectory import build_trajectory

# Of `to_dict` in rlms 0.1.3, rlm/core/types.py.
METADATA = {
    "root_model", "max_depth", "max_iterations", "backend", "backend_kwargs", "environment_type", "environment_kwargs",
    "other_backends",
}  # fmt: skip
ITERATION = {"prompt", "response", "code_blocks", "final_answer", "iteration_time"}
RESULT = {"stdout", "stderr", "locals", "execution_time", "rlm_calls", "final_answer"}
CALL = {"root_model", "prompt", "response", "usage_summary", "execution_time"}
SUMMARY = {"total_calls", "total_input_tokens", "total_output_tokens", "total_cost"}
READ_BY_THE_VIEWER = {"prompt_tokens", "completion_tokens"}


def exported(run_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    head, *iterations = [json.loads(line) for line in log_lines(*read_run(run_dir))]
    return head, iterations


def test_a_log_is_one_line_of_metadata_and_one_for_each_turn(run_dir: Path) -> None:
    head, iterations = exported(run_dir)
    assert head.keys() == METADATA | {"type", "timestamp"}
    assert (head["type"], head["root_model"], head["max_depth"], head["max_iterations"]) == ("metadata", "big", 2, 30)
    assert [line["iteration"] for line in iterations] == [1, 2, 3, 4]
    assert all(line.keys() == ITERATION | {"type", "iteration", "timestamp"} for line in iterations)
    assert [line["final_answer"] for line in iterations] == [None, None, None, "42"]


def test_an_iteration_has_the_prompt_as_sent_and_its_cells_with_what_they_printed(run_dir: Path) -> None:
    _, iterations = exported(run_dir)
    assert [message["role"] for message in iterations[1]["prompt"]] == ["system", "user", "assistant", "user"]
    (cell,) = iterations[0]["code_blocks"]
    assert cell["result"].keys() == RESULT
    assert (cell["code"], cell["result"]["stdout"]) == ("x", "before\n")
    assert cell["result"]["stderr"].startswith("NameError")


def test_a_call_has_its_usage_and_a_recursive_call_its_own_log(run_dir: Path) -> None:
    _, iterations = exported(run_dir)
    (child,), (plain,) = (line["code_blocks"][0]["result"]["rlm_calls"] for line in iterations[1:3])
    assert plain.keys() == CALL | READ_BY_THE_VIEWER
    assert child.keys() == CALL | READ_BY_THE_VIEWER | {"metadata"}
    assert child["usage_summary"]["model_usage_summaries"]["small"].keys() == SUMMARY
    assert child["usage_summary"]["model_usage_summaries"]["small"]["total_calls"] == 3
    assert child["metadata"]["run_metadata"].keys() == METADATA
    inner = child["metadata"]["iterations"][0]["code_blocks"][0]["result"]["rlm_calls"]
    assert [call["response"] for call in inner] == ["<llm of the tree>"]


def test_a_run_that_just_started_has_only_metadata() -> None:
    trajectory = build_trajectory([RunStarted(query="q", depth=1, models={0: "m"}, context_bytes=3)])
    assert len(list(log_lines(trajectory, RunDetails()))) == 1


def test_thinking_has_a_field_of_its_own(thinking_run: Path) -> None:
    _, (line,) = exported(thinking_run)
    assert (line["thinking"], line["response"]) == ("Is it 42?\n\nIt is.", "FINAL(42)")
