"""The oracle behind a real server, and the scripted programs through real containers."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

from rlm import Orchestrator
from rlm.evals.corpus.questions import built_in
from rlm.evals.registry import load_tasks
from rlm.evals.scorers import score
from rlm.evals.scripted.oracle import Oracle, OracleServer
from rlm.evals.scripted.policies import oolong_root_model
from rlm.models.openai import OpenAIModel
from rlm.types import Message

pytestmark = pytest.mark.anyio

ORACLE = Oracle(questions=built_in())
HAIL = [Message(role="user", content="7: What causes hail ?\n8: Hello ?")]


async def test_the_server_labels_questions_and_counts_tokens() -> None:
    async with OracleServer(ORACLE) as server:
        model = OpenAIModel("oracle", base_url=server.base_url)
        replies = [await model.complete(HAIL) for _ in range(2)]
        await model.aclose()
    assert {reply.text for reply in replies} == {"7: description and abstract concept"}
    assert replies[0].usage.input_tokens > 0 < replies[0].usage.output_tokens
    assert server.requests == 2


async def test_requests_wait_for_their_latency_side_by_side() -> None:
    async with OracleServer(ORACLE, latency=0.3) as server:
        model = OpenAIModel("oracle", base_url=server.base_url)
        started = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(model.complete, HAIL)
        taken = time.perf_counter() - started
        await model.aclose()
    assert 0.3 <= taken < 2


@pytest.mark.parametrize(("name", "index"), [("oolong/trec_coarse", 0), ("oolong_pairs", 3)])
@pytest.mark.parametrize(("length", "chunks"), [(2**13, 4), (2**17, 64)])  # 188 and 3,182 lines, in chunks of 50
async def test_with_a_perfect_labeller_a_run_in_containers_scores_one(
    name: str, index: int, length: int, chunks: int, tmp_path: Path
) -> None:
    instance = load_tasks()[name].make(length=length, seed=1, index=index)
    async with OracleServer(ORACLE) as server:
        sub_model = OpenAIModel("oracle", base_url=server.base_url)
        run = Orchestrator(depth=1, model=oolong_root_model(name), sub_model=sub_model, run_root=tmp_path)
        done = await run.acompletion(instance.context, instance.query)
        await sub_model.aclose()
    assert score(instance, done.answer).strict == 1
    assert done.sub_calls == server.requests == chunks
