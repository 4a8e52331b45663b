"""An invalid plan is refused before anything is written. A plan requires only what its methods need."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.evals.corpus.questions import LABELS, NAMES, read_trec
from rlm.evals.plan import Plan
from rlm.models.openai import OpenAIModel
from rlm.types import Message

ROOT, SUB = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RLM_SUB_BASE_URL", "RLM_SUB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def trec(folder: Path) -> Path:
    """A file in TREC's format, with other questions than ours."""
    path = folder / "trec.label"
    path.write_text(
        "".join(f"{label}:other Is this the question {n} of {label} ?\n" for label in NAMES for n in range(40))
    )
    return path


@pytest.mark.anyio
@pytest.mark.parametrize("task", ["oolong/trec_file", "oolong_pairs/trec_file"])
async def test_the_labeller_beside_the_scripted_model_knows_the_tasks_own_questions(tmp_path: Path, task: str) -> None:
    path = trec(tmp_path)
    _, sub = Plan(tasks=(task,), trec=str(path)).models()(task)
    for question, label in read_trec(path).label_of.items():
        reply = await sub.complete([Message(role="user", content=f"1: {question}")])
        assert reply.text == f"1: {label}"
    assert {*read_trec(path).label_of.values()} == {*LABELS}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(tasks=("multihop", "repo_qa")), "^The scripted model does not support the tasks `multihop`, `repo_qa`"),
        (Plan(tasks=("multihop",), model="gpt-5", sub_model="gpt-5"), "^No API key found"),
    ],
)
def test_a_method_without_a_model_needs_neither_a_policy_nor_a_key(plan: Plan, message: str) -> None:
    keyword = replace(plan, methods=("keyword",))
    keyword.check()
    assert keyword.models().clients == set()
    assert "no model" in keyword.model_note
    with pytest.raises(ConfigError, match=message):
        _checked(plan)


def _checked(plan: Plan) -> None:
    plan.check()
    plan.models()


@pytest.mark.parametrize("task", ["ruler/single_1", "seed_niah/facts", "oolong_pairs"])
def test_a_length_too_short_is_refused_before_anything_starts(task: str) -> None:
    with pytest.raises(ConfigError, match="too short for"):
        Plan(tasks=(task,), lengths=(8192, 100)).check()


def test_a_length_too_long_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        def make(self, *, length: int, seed: int, index: int) -> None:
            if length > 8192:
                raise ConfigError("ask for a smaller length")

    monkeypatch.setattr("rlm.evals.plan.load_tasks", lambda **options: {"ruler/small": Small()})
    with pytest.raises(ConfigError, match="ask for a smaller length"):
        Plan(tasks=("ruler/small",), methods=("keyword",), lengths=(8192, 16384, 4096)).check()


def test_two_files_whose_instances_have_one_name_are_refused(tmp_path: Path) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "d.jsonl").write_text(json.dumps({"context": folder, "query": "?", "answer": folder}))
        files.append(("data", str(tmp_path / folder / "d.jsonl")))
    assert len(list(Plan(files=(files[0],)).jobs())) == 1
    with pytest.raises(ConfigError, match=r"b/d.jsonl: instance 1 of user/d exists in an earlier file too"):
        list(Plan(files=tuple(files)).jobs())


def test_a_sub_model_has_its_own_server_and_never_the_roots_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", ROOT)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-root-000000")
    plan = Plan(tasks=("multihop",), model="m", sub_model="m", sub_base_url=SUB)
    for key in ("", "sk-of-the-calls-00000"):
        monkeypatch.setenv("RLM_SUB_API_KEY", key)
        models = plan.models()
        root, sub = models("multihop")
        assert isinstance(root, OpenAIModel)
        assert isinstance(sub, OpenAIModel)
        assert (root.base_url, sub.base_url, models.base_url) == (ROOT, SUB, ROOT)
        assert root.redact("sk-of-the-root-000000") != "sk-of-the-root-000000"
        assert sub.redact("sk-of-the-root-000000") == "sk-of-the-root-000000"
        assert not key or sub.redact(key) != key
    root, sub = replace(plan, sub_base_url=None).models()("multihop")
    assert root is sub


def test_an_evaluation_does_not_resume_at_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", ROOT)
    plan = Plan(tasks=("multihop",), model="m", sub_model="m")
    plan = Plan.from_settings(replace(plan, base_url=plan.models().base_url).to_settings())
    plan.models()
    monkeypatch.setenv("OPENAI_BASE_URL", SUB)
    with pytest.raises(
        ConfigError, match=f"used the server {ROOT}, but OPENAI_BASE_URL now selects {SUB}. Restore OPENAI_BASE_URL"
    ):
        plan.models()


def test_an_accuracy_is_recorded_only_with_a_labeller() -> None:
    assert Plan(accuracy=0.9).to_settings()["accuracy"] == 0.9
    assert "accuracy" not in Plan(methods=("keyword",)).to_settings()
    real = Plan(model="m", sub_model="m").to_settings()
    assert "accuracy" not in real
    assert Plan.from_settings(real) == Plan(model="m", sub_model="m")


@pytest.mark.parametrize(
    ("model", "sub_model", "message"),
    [
        ("scripted", "scripted", "measures the system"),
        ("m", "m", "real models"),
        ("scripted", "m", "a real model as sub-model beside a scripted root model"),
        ("m", "scripted", "a real model as root model beside a scripted sub-model"),
    ],
)
def test_a_report_says_which_models_it_measures(model: str, sub_model: str, message: str) -> None:
    assert message in Plan(model=model, sub_model=sub_model).model_note
