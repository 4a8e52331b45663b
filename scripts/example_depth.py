"""Depth 3: each level cuts a list of numbers in four, and each RLM has its own container.

Prints the call tree with the containers. Runs offline with the scripted model.
"""

from __future__ import annotations

from rich.console import Console
from rich.tree import Tree

from rlm import Orchestrator
from rlm.events import Event, RLMStarted, SubCallStarted
from rlm.testing import scripted_model_for


class Nodes:
    """A listener that draws the call tree."""

    def __init__(self) -> None:
        self.root = Tree("run")
        self._branches: dict[str, Tree] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case RLMStarted():
                parent = self._branches.get(event.parent or "", self.root)
                size = f"{event.context_type} of {event.context_size}"
                self._branches[event.node] = parent.add(f"{event.node}  container {event.sandbox[:12]}  {size}")
            case SubCallStarted(recursive=False):
                self._branches[event.parent or ""].add(f"{event.node}  plain call to {event.model}")


def main() -> None:
    numbers = list(range(64))
    nodes = Nodes()
    orchestrator = Orchestrator(depth=3, model=scripted_model_for("tree"), on_event=nodes)
    done = orchestrator.completion(numbers, "What is the sum of these numbers? Reply with the number only.")
    Console().print(nodes.root)
    print(f"Answer: {done} (expected {sum(numbers)}). {done.sandboxes} containers, {done.seconds:.2f} s.")


if __name__ == "__main__":
    main()
