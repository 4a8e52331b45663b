"""The program of docs/tutorial.md: support tickets, read by RLMs at depth 2. `tutorial.py [TICKETS]`.

Runs offline: the models are scripted. They write the cells of a plausible run, and read nothing but their prompts.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Sequence
from typing import Final

from rlm import Message, Orchestrator, Price, ScriptedModel
from rlm.events import CellFinished, CellStarted, Event, TurnStarted

QUESTION: Final = "Which product gets the most complaints about being charged twice, and how many?"

PRODUCTS: Final = ("Atlas", "Borealis", "Cumulus", "Delta")
SHARES: Final = {"2026-Q1": 0.15, "2026-Q2": 0.35, "2026-Q3": 0.1, "2026-Q4": 0.4}  # share of all tickets, by quarter
CHARGED_TWICE: Final = (
    "My card shows the fee for {} two times.",
    "You took the money for {} although I had already paid.",
    "Two identical withdrawals for {} are on my statement. Please return one.",
)
OTHER: Final = (
    "{} does not start since the update.",
    "How do I export my data from {}?",
    "Please cancel my {} plan at the end of the month.",
    "The price of {} went up. Why?",
    "I love {}! I recommended it two weeks ago.",
)

LOOK: Final = """The context is a dictionary. I look at its shape first.

```repl
for quarter, tickets in context.items():
    print(quarter, len(tickets), "tickets, such as:", tickets[0])
```"""

DELEGATE: Final = """People word it differently, so a search for words is not enough. One RLM reads each quarter.

```repl
question = "How many tickets for each product complain about being charged twice? Reply with JSON."
replies = llm_batch([question] * len(context), contexts=list(context.values()))
for quarter, reply in zip(context, replies):
    print(quarter, reply)
```"""

ADD_UP: Final = """Now I add up the quarters.

```repl
import json
from collections import Counter
totals = Counter()
for reply in replies:
    totals.update(json.loads(reply))
product, count = totals.most_common(1)[0]
FINAL(f"{product}, with {count} complaints.")
```"""

READ: Final = """Each ticket is short. I ask a model about all of them at once.

```repl
question = "Is this about being charged twice? Reply with the product, else NO."
replies = llm_batch([ticket + "\\n\\n" + question for ticket in context])
failed = sum(not reply for reply in replies)
print(len(replies), "replies,", failed, "failed")
```"""

COUNT: Final = """```repl
import json
from collections import Counter
FINAL(json.dumps(Counter(sorted(reply for reply in replies if reply and reply != "NO"))))
```"""


def tickets(count: int, *, seed: int = 3) -> dict[str, list[str]]:
    """Tickets of four quarters; about a third of them complain about being charged twice."""
    chance = random.Random(seed)
    quarters: dict[str, list[str]] = {}
    for quarter, share in SHARES.items():
        texts = [
            chance.choice(CHARGED_TWICE if chance.random() < 1 / 3 else OTHER) for _ in range(round(count * share))
        ]
        quarters[quarter] = [text.format(chance.choice(PRODUCTS)) for text in texts]
    return quarters


def reply_as_root(messages: Sequence[Message]) -> str:
    """Drives both kinds of RLM: the root, and the one that reads a quarter."""
    turn = sum(message.role == "assistant" for message in messages)
    script = (READ, COUNT) if "Reply with JSON" in messages[1].content else (LOOK, DELEGATE, ADD_UP)
    return script[turn]


def reply_to_ticket(messages: Sequence[Message]) -> str:
    """Reads one ticket, as a small model would."""
    ticket = messages[-1].content.partition("\n")[0]
    product = next(name for name in PRODUCTS if name in ticket)
    return product if re.search(r"two times|already paid|two identical", ticket, re.IGNORECASE) else "NO"


def orchestrator(*, latency: float = 0.0) -> Orchestrator:
    """An orchestrator of depth 2: RLMs use one model, plain calls another. Prices are examples."""
    root = ScriptedModel(reply_as_root, name="scripted-large", latency=latency)
    sub = ScriptedModel(reply_to_ticket, name="scripted-small", latency=latency)
    prices = {"scripted-large": Price(input=5, output=25), "scripted-small": Price(input=2, output=8)}
    return Orchestrator(depth=2, model=root, level_models={2: sub}, prices=prices)


def show(event: Event) -> None:
    """A listener that prints the root's cells and their output."""
    match event:
        case TurnStarted(node="0"):
            print(f"--- turn {event.turn}")
        case CellStarted(node="0"):
            print("".join(f">>> {line}\n" for line in event.code.splitlines()), end="")
        case CellFinished(node="0"):
            print(event.result.stdout, end="")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    done = orchestrator().completion(tickets(count), QUESTION, on_event=show)
    print(f"Answer: {done.answer}")
    print(f"{done.iterations} turns, {done.sandboxes} sandboxes, {done.usage.calls} model calls, ${done.cost:.4f}")


if __name__ == "__main__":
    main()
