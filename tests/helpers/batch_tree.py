"""A tree of depth 2 with a fault in the middle of a batch, and the requests that the provider received."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rlm import Completion, OpenAIModel, Orchestrator
from rlm.events import Event, SandboxLost
from rlm.testing import FakeProvider, Fault

ROOT: Final = """```repl
kept = context.upper()
answers = llm_batch(["a", "b", "c"], contexts=[context + name for name in "abc"])
FINAL(" ".join([kept, *map(str, answers)]))
```"""
FIRST: Final = "```repl\nmine = llm_query('first ' + context)\nprint(mine)\n```"
THEN: Final = """```repl
parts = llm_batch([f'{number} {context}' for number in range(4)])
FINAL(mine + '+' + '+'.join(parts))
```"""
MIDDLE: Final = "2 text b"  # a call of the second child's batch
CALLS: Final = 1 + 3 * 2 + 3 * 5  # of root, children and leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The completion, the lost sandboxes, and how often each request was sent."""

    done: Completion
    lost: Sequence[SandboxLost]
    asked: Counter[str]

    @property
    def again(self) -> Counter[str]:
        """Requests that were sent again, with the number of repetitions."""
        return self.asked - Counter(dict.fromkeys(self.asked, 1))

    @property
    def calls_lost(self) -> int:
        """Answered calls that were sent again: repetitions beyond those in flight."""
        return max(0, self.again.total() - self.done.resent_calls)


async def run_batch_tree(folder: Path, strike: Callable[[], Fault | None]) -> Outcome:
    """Run the tree. `strike` is called once, at the first request of `MIDDLE`, and may return its answer."""
    struck = False

    def plays(messages: Sequence[Mapping[str, Any]], model: str) -> str | Fault:
        nonlocal struck
        if len(messages) == 1:
            prompt = messages[0]["content"]
            if prompt == MIDDLE and not struck:
                struck = True
                return strike() or f"<{prompt}>"
            return f"<{prompt}>"
        if model == "root":
            return ROOT
        return FIRST if len(messages) == 2 else THEN

    seen: list[Event] = []
    async with FakeProvider(plays, latency=0.02) as server:
        root, child = (OpenAIModel(name, base_url=server.base_url) for name in ("root", "child"))
        done = await Orchestrator(
            depth=2, model=root, sub_model=child, run_root=folder, on_event=seen.append
        ).acompletion("text ", "go")
    asked = Counter(str(request.messages) for request in server.requests)
    return Outcome(done=done, lost=[event for event in seen if isinstance(event, SandboxLost)], asked=asked)


def right_answer() -> str:
    children = ("+".join(f"<{part} text {name}>" for part in ("first", *range(4))) for name in "abc")
    return " ".join(["TEXT ", *children])
