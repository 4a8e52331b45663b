"""A run whose cells call an RLM and plain models, without Docker and network."""

from collections.abc import Sequence
from typing import Any

from rlm import Orchestrator, ScriptedModel
from rlm.sandbox.base import Answer, SandboxQuery
from rlm.sandbox.values import encode
from rlm.testing import FakeSandboxes
from rlm.types import CellResult, Message


async def asks(code: str, answer: Answer | None) -> CellResult:
    """`rlm ...` asks an RLM, `llm ...` a plain model; anything else fails."""
    if answer is None or code.split()[0] not in ("rlm", "llm"):
        return CellResult(outcome="error", error="NameError: name 'x' is not defined\n", stdout="before\n")
    recursive = code.startswith("rlm")
    query = SandboxQuery(
        call=1,
        batch=0,
        prompt=code,
        context=encode("a part") if recursive else None,
        model=None,
        recurse=recursive,
    )
    return CellResult(outcome="ok", stdout=(await answer(query)).text, seconds=0.25)


def plays(messages: Sequence[Message]) -> str:
    """The root fails once, calls an RLM and a model, and answers; others answer directly or call a model first."""
    if messages[0].role != "system":
        return f"<{messages[-1].content}>"
    turn = sum(message.role == "assistant" for message in messages)
    root = "the root" in messages[1].content
    cells = ["x", "rlm of the tree", "llm of the root"] if root else ["llm of the tree"]
    return f"So.\n```repl\n{cells[turn]}\n```" if turn < len(cells) else "FINAL(42)"


def small_tree(**options: Any) -> Orchestrator:
    """Answers "Is it the root?" with 42: nodes 0, 0.1 (an RLM), 0.1.1 and 0.2, and a cell that fails."""
    models = {"model": ScriptedModel(plays, name="big"), "sub_model": ScriptedModel(plays, name="small")}
    return Orchestrator(**{"depth": 2, "sandbox_factory": FakeSandboxes(asks), **models, **options})
