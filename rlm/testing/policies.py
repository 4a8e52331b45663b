"""Deterministic policies for `ScriptedModel`. Each plays the root model and the sub-model of one task. Imports models.

As root model, a policy writes real code and reads its output before the next turn. As sub-model, it reads only its prompt.
No policy sees an expected answer, so answers come from the context. A run with them measures the system, not intelligence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rlm.errors import ConfigError
from rlm.models.scripted import ScriptedModel as ScriptedModel
from rlm.types import Message

_LOOK: Final = """First I look at what there is.

```repl
print(type(context).__name__, len(context))
print(context[:200])
print(context[-200:])
```"""

_SEARCH: Final = """A long text of lines. Code can search it without any model.

```repl
import re
found = re.findall(r"magic number is (\\d+)", context)
print(found)
```"""

_ASK_PIECES: Final = """Several facts in a long text. I cut it into pieces at line ends and ask about all of them at once.

```repl
size = max(1, len(context) // 40)
pieces, start = [], 0
while start < len(context):
    end = context.find("\\n", start + size)
    end = len(context) if end < 0 else end + 1
    pieces.append(context[start:end])
    start = end
question = "Which magic numbers of names are mentioned in the text above? Reply with lines of name=number, or NONE."
replies = llm_batch([piece + "\\n" + question for piece in pieces], recurse=False)
facts = {}
for piece, reply in zip(pieces, replies):
    for name, number in re.findall(r"(\\w+)=(\\d+)", reply) if reply else []:
        if name in piece and number in piece:
            facts[name] = number
print(len(pieces), "pieces,", sum(not reply for reply in replies), "failed")
print(facts)
```"""

_ASK_SMALL_PIECES: Final = """A small model reads small pieces, and is often wrong: what it says has to occur in its piece.

```repl
import re
pieces, piece = [], ""
for line in context.split("\\n"):
    if len(piece) + len(line) > 2_400:
        pieces.append(piece)
        piece = ""
    piece += line + "\\n"
pieces.append(piece)
question = "What is the magic number mentioned in the text above? Reply with the number only."
replies = llm_batch([piece + "\\n" + question for piece in pieces], recurse=False, max_concurrent=8)
found = []
for piece, reply in zip(pieces, replies):
    for number in re.findall(r"\\d[\\d,]*", reply or ""):
        number = number.replace(",", "")
        if len(number) == 7 and number in piece:
            found.append(number)
print(len(pieces), "pieces,", sum(not reply for reply in replies), "failed")
print("found", found)
```"""

_ADD_UP: Final = """```repl
question = "What is the sum of these numbers? Reply with the number only."
if len(context) <= 4:
    FINAL(llm_query(question, context=context))
else:
    width = -(-len(context) // 4)
    parts = [context[i:i + width] for i in range(0, len(context), width)]
    FINAL(sum(int(answer) for answer in llm_batch([question] * len(parts), contexts=parts)))
```"""


def _turns(messages: Sequence[Message]) -> int:
    """Replies so far."""
    return sum(message.role == "assistant" for message in messages)


def _is_root(messages: Sequence[Message]) -> bool:
    return messages[0].role == "system"


def _needle(messages: Sequence[Message]) -> str:
    """Finds one fact by searching in code."""
    if not _is_root(messages):
        found = re.search(r"magic number is (\d+)", messages[-1].content)
        return found[1] if found else "NONE"
    match _turns(messages):
        case 0:
            return _LOOK
        case 1:
            return _SEARCH
        case _:
            found = re.search(r"\['(\d+)'\]", messages[-1].content)
            return f"FINAL({found[1]})" if found else "FINAL(no magic number found)"


def _facts(messages: Sequence[Message]) -> str:
    """Finds several facts: asks sub-models about pieces, then combines their replies."""
    if not _is_root(messages):
        facts = re.findall(r"The magic number of (\w+) is (\d+)", messages[-1].content)
        return "\n".join(f"{name}={number}" for name, number in facts) or "NONE"
    match _turns(messages):
        case 0:
            return _LOOK
        case 1:
            return _ASK_PIECES.replace("```repl\n", "```repl\nimport re\n", 1)
        case _:
            known = dict(re.findall(r"'(\w+)': '(\d+)'", messages[-1].content))
            asked = re.findall(r"\w+", messages[1].content.partition("magic numbers of")[2].partition("?")[0])
            return "FINAL(" + ", ".join(f"{name}={known[name]}" for name in asked if name in known) + ")"


def _needle_by_pieces(messages: Sequence[Message]) -> str:
    """Finds one fact through a weak sub-model: trusts a reply only if the piece contains it."""
    match _turns(messages):
        case 0:
            return _LOOK
        case 1:
            return _ASK_SMALL_PIECES
        case _:
            found = re.search(r"found \['(\d+)'", messages[-1].content)
            return f"FINAL({found[1]})" if found else "FINAL(no magic number found)"


def _tree(messages: Sequence[Message]) -> str:
    """Sums a list of numbers, split in four at every level."""
    if _is_root(messages):
        return _ADD_UP
    numbers = re.findall(r"-?\d+", messages[-1].content)
    return str(sum(int(number) for number in numbers))


POLICIES: Final[Mapping[str, Callable[[Sequence[Message]], str]]] = {  # by task
    "needle": _needle,
    "facts": _facts,
    "needle by pieces": _needle_by_pieces,
    "tree": _tree,
}


def scripted_model_for(task: str, *, name: str = "scripted", latency: float = 0.0) -> ScriptedModel:
    """A scripted model that plays the root model and the sub-model of a task. It costs nothing.

    Args:
        task: a key of `POLICIES`: `needle` (one fact in a long text), `facts` (several facts, by sub-calls),
            `needle by pieces` (one fact, through a weak real sub-model), `tree` (a sum, by recursion).
        name: the model's name in the run's record.
        latency: seconds that each reply takes.

    Raises:
        ConfigError: no policy plays the task.
    """
    if task not in POLICIES:
        raise ConfigError(f"No scripted policy for task {task!r}. Choose from {', '.join(POLICIES)}.")
    return ScriptedModel(POLICIES[task], name=name, latency=latency)
