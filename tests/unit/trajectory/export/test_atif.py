"""A run is a valid ATIF trajectory, with a nested trajectory for each node and the totals of the run."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atif import Trajectory
from typer.testing import CliRunner

from helpers.attack_texts import attacked_run
from rlm import cli
from rlm.events import (
    CellFinished,
    CellStarted,
    Compacted,
    LimitsRaised,
    ModelFailed,
    QuestionAsked,
    ReplayDiverged,
    RunStarted,
    SandboxLost,
    ToolUsed,
    TurnStarted,
)
from rlm.trajectory.export.atif import atif_trajectory
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.run_reader import read_run
from rlm.trajectory.trajectory import build_trajectory
from rlm.types import CellResult


def exported(run_dir: Path) -> dict[str, Any]:
    return atif_trajectory(*read_run(run_dir))


def with_nested(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield data
    for nested in data.get("subagent_trajectories", ()):
        yield from with_nested(nested)


def test_a_run_is_valid_by_the_published_schema(run_dir: Path) -> None:
    Trajectory.model_validate(exported(run_dir))


def test_a_run_full_of_attacks_is_valid_too(tmp_path: Path) -> None:
    attacked_run(tmp_path)
    done = CliRunner().invoke(cli.app, ["export", str(tmp_path), "--to", "atif"])
    assert len(Trajectory.model_validate_json(done.stdout_bytes).subagent_trajectories or ()) == 5


def test_each_node_is_a_trajectory_nested_in_its_callers_and_referenced_by_the_calling_cell(run_dir: Path) -> None:
    data = exported(run_dir)
    assert [each["extra"]["node"] for each in with_nested(data)] == ["0", "0.1", "0.1.1", "0.2"]
    for each in with_nested(data):
        refs = [
            ref["trajectory_id"]
            for step in each["steps"]
            for result in step.get("observation", {"results": []})["results"]
            for ref in result.get("subagent_trajectory_ref", ())
        ]
        assert refs == [nested["trajectory_id"] for nested in each.get("subagent_trajectories", ())]


def test_the_agent_names_rlm_and_its_version_and_a_plain_call_is_an_llm(run_dir: Path) -> None:
    agents = [each["agent"] for each in with_nested(exported(run_dir))]
    assert [(agent["name"], agent["model_name"]) for agent in agents] == [
        ("rlm", "big"),
        ("rlm", "small"),
        ("llm", "small"),
        ("llm", "small"),
    ]
    assert {agent["version"] for agent in agents} == {version("rlm")}
    assert ["tool_definitions" in agent for agent in agents] == [True, True, False, False]


def test_steps_are_the_prompts_then_each_reply_with_its_cells(run_dir: Path) -> None:
    steps = exported(run_dir)["steps"]
    assert [step["source"] for step in steps] == ["system", "user", *["agent"] * 4]
    assert steps[2]["tool_calls"][0]["arguments"] == {"code": "x"}
    assert "NameError" in steps[2]["observation"]["results"][0]["content"]
    assert steps[-1]["message"] == "FINAL(42)"


def test_step_metrics_add_up_to_trajectory_metrics_and_those_to_the_runs(run_dir: Path) -> None:
    data = exported(run_dir)
    for each in with_nested(data):
        of_steps = sum(step["metrics"]["prompt_tokens"] for step in each["steps"] if "metrics" in step)
        assert each["final_metrics"]["total_prompt_tokens"] == of_steps
    whole = data["final_metrics"]["extra"]["with_subagents"]
    assert whole["calls"] == 8
    assert whole["prompt_tokens"] == sum(each["final_metrics"]["total_prompt_tokens"] for each in with_nested(data))


def test_other_events_are_system_steps_and_host_functions_are_listed_with_their_cell() -> None:
    events = [
        RunStarted(query="q", depth=1, models={0: "m"}, context_bytes=3, run_id="r", ts=1.0),
        TurnStarted(turn=1, of=3),
        ReplayDiverged(ordinal=1),
        ModelFailed(role="root", model="m", error="503", usage=None, seconds=0.1),
        CellStarted(cell=1, code="f(1)"),
        ToolUsed(tool="f", arguments="(1)", ok=True, seconds=0.5),
        CellFinished(cell=1, result=CellResult(outcome="ok")),
        SandboxLost(sandbox="a", reason="gone", replacement="b", restored=True),
        Compacted(messages=3, summary="short"),
        LimitsRaised(limits={"max_tokens": 9.0}),
        QuestionAsked(query="and?", context_bytes=None),
    ]
    data = atif_trajectory(build_trajectory(events), RunDetails())
    Trajectory.model_validate(data)
    assert [step["source"] for step in data["steps"]] == ["user", *["system"] * 2, "agent", *["system"] * 3, "user"]
    (result,) = data["steps"][3]["observation"]["results"]
    assert result["extra"]["host_functions"] == [{"name": "f", "arguments": "(1)", "ok": True, "seconds": 0.5}]


def test_thinking_is_the_reasoning_of_its_step_and_not_in_the_message(thinking_run: Path) -> None:
    data = exported(thinking_run)
    Trajectory.model_validate(data)
    step = data["steps"][-1]
    assert (step["reasoning_content"], step["message"]) == ("Is it 42?\n\nIt is.", "FINAL(42)")


def test_a_step_without_thinking_has_no_reasoning(run_dir: Path) -> None:
    assert not any("reasoning_content" in step for step in exported(run_dir)["steps"])
