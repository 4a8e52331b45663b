"""A session in a real container: variables, contexts and conversation stay, even if the container is lost."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

from rlm import Limits, Orchestrator, SandboxConfig, ScriptedModel, Session
from rlm.config import MIB
from rlm.events import CellStarted, Event, SandboxLost

pytestmark = pytest.mark.anyio

SUB = ScriptedModel(lambda messages: f"<{messages[-1].content}>", name="sub")


def plays(*cells: str) -> ScriptedModel:
    return ScriptedModel([f"````repl\n{textwrap.dedent(cell)}\n````" for cell in cells], name="root")


def containers(session: Session) -> list[str]:
    assert session.directory is not None
    command = ["docker", "ps", "-aq", "--no-trunc", "--filter", f"label=rlm.run={session.directory.name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


async def test_variables_contexts_and_the_conversation_are_there_for_the_next_question(tmp_path: Path) -> None:
    root = plays(
        "words = context.split(); FINAL(len(words))",
        "FINAL(words[0] + context_0[-1] + str(context is context_0))",
        "FINAL([context, context_0, context is context_1, llm_query(words[1])])",
        'FINAL([message["role"] for message in history] + [history[1]["content"][:13], history[-2]["content"][-40:]])',
    )
    async with Orchestrator(model=root, sub_model=SUB, run_root=tmp_path).session() as session:
        assert (await session.aask("How many words?", "one two three")).answer == "3"
        assert (await session.aask("And the first?")).answer == "oneeTrue"
        assert len(containers(session)) == 1
        third = await session.aask("And now?", {"a": 1})
        assert third.answer == "[{'a': 1}, 'one two three', True, '<two>']"
        fourth = await session.aask("What was said?")
    assert fourth.answer.startswith(
        "['system', 'user', 'assistant', 'user', 'assistant', 'user', 'assistant', 'Question:\\nHow"
    )
    assert containers(session) == []


async def test_the_answer_to_a_question_is_not_reused_for_the_next(tmp_path: Path) -> None:
    root = plays(
        "answer['content'] = 'the first'; answer['ready'] = True",
        "print(answer)",
        "answer['content'] = 'the second'; answer['ready'] = True",
    )
    async with Orchestrator(model=root, run_root=tmp_path).session() as session:
        assert (await session.aask("one?", "text")).answer == "the first"
        second = await session.aask("two?")
    assert (second.answer, second.iterations) == ("the second", 2)


async def test_a_context_too_large_for_the_sandbox_gets_a_larger_one_with_all_variables(
    tmp_path: Path,
) -> None:
    """The first container has memory for a small context; its cells run again in the next one, and no call is paid twice."""
    root = plays(
        "import random; kept = llm_query('p'), random.random(); FINAL(kept[0])",
        "FINAL([len(context), kept[0], len(context_0)])",
    )
    big = "x" * (80 * MIB)
    config = SandboxConfig(memory_bytes=192 * MIB)
    async with Orchestrator(model=root, sub_model=SUB, run_root=tmp_path, sandbox=config).session() as session:
        await session.aask("first?", "small")
        before = containers(session)
        second = await session.aask("second?", big)
        assert second.answer == f"[{80 * MIB}, '<p>', 5]"
        assert containers(session) != before
    assert session.usage.calls == 3


async def test_a_container_killed_between_two_questions_is_replaced(tmp_path: Path) -> None:
    seen: list[Event] = []
    root = plays("first = llm_query('p'); FINAL(first)", "FINAL([first, context, context_0])")
    rlm = Orchestrator(model=root, sub_model=SUB, run_root=tmp_path, on_event=seen.append)
    async with rlm.session() as session:
        await session.aask("first?", "text")
        subprocess.run(["docker", "kill", *containers(session)], check=True, capture_output=True)
        second = await session.aask("second?", "more")
    assert second.answer == "['<p>', 'more', 'text']"
    (lost,) = (event for event in seen if isinstance(event, SandboxLost))
    assert lost.restored
    assert session.usage.calls == 3


async def test_the_clock_of_a_question_leaves_a_sandbox_that_answers_the_next(tmp_path: Path) -> None:
    root = ScriptedModel(
        [
            "```repl\nkept = 7\n```",
            "```repl\nimport time; lost = llm_query('p'); time.sleep(60)\n```",
            "FINAL(late)",
            "```repl\nFINAL([kept, 'lost' in globals(), llm_query('q')])\n```",
        ],
        name="root",
    )
    rlm = Orchestrator(model=root, sub_model=SUB, run_root=tmp_path)
    async with rlm.session(limits=Limits(max_seconds=3.0)) as session:
        first = await session.aask("first?", "text")
        assert (first.stop_reason, first.answer) == ("max_seconds", "late")
        directory = first.run_dir
        session._run._control.raise_limit(max_seconds=100.0)  # type: ignore[union-attr]
        assert (await session.aask("second?")).answer == "[7, False, '<q>']"
    replayed = await rlm.areplay(directory)
    assert (replayed.answer, replayed.diverged) == ("[7, False, '<q>']", ())


async def test_a_started_run_can_be_watched_and_asked_to_answer_now(tmp_path: Path) -> None:
    root = ScriptedModel(
        ["```repl\nimport time; print('here', flush=True); time.sleep(60)\n```", "FINAL(now)"], name="root"
    )
    async with Orchestrator(model=root, sub_model=SUB, run_root=tmp_path).start("text", "q") as run:
        async for event in run:
            if isinstance(event, CellStarted):
                run.answer_now()
        done = await run
    assert (done.answer, done.stop_reason) == ("now", "stopped")
    assert done.seconds < 30
