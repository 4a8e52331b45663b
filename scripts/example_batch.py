"""Finds several facts in a long text with one `llm_batch`.

Uses a scripted model offline; set RLM_MODEL to use the models of the environment.
"""

from __future__ import annotations

import os

from rlm import Orchestrator
from rlm.evals.tasks.niah import is_correct, make_haystack
from rlm.testing import scripted_model_for


def main() -> None:
    trial = make_haystack(number=1, lines=200_000, seed=1, facts=4)
    print(f"A text of {len(trial.context):,} characters. {trial.query}")
    model = None if os.environ.get("RLM_MODEL") else scripted_model_for("facts")
    done = Orchestrator(depth=1, model=model).completion(trial.context, trial.query)
    print(f"Answer: {done}")
    print(f"Right: {is_correct(done.answer, trial.expected)}. {done.sub_calls} calls, {done.seconds:.2f} s.")


if __name__ == "__main__":
    main()
