"""RLMs of a depth; an interrupted run is resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlm.config import Limits
from rlm.errors import ConfigError, JournalError, ReplayDivergedError
from rlm.evals.task import Instance
from rlm.orchestrator import Orchestrator
from rlm.store.runs import RunSummary, list_runs
from rlm.types import Completion

from .base import Method, MethodContext, Outcome


def _rlm_of(depth: int) -> Method:
    async def rlm(instance: Instance, means: MethodContext, folder: Path) -> Outcome:
        """An RLM. One of this instance that was cut off goes on where it was."""
        model, sub_model = means.models(instance.task)
        orchestrator = Orchestrator(
            depth=depth,
            model=model,
            sub_model=sub_model,
            limits=means.limits,
            sandbox=means.sandbox,
            sandbox_factory=means.sandbox_factory,
            run_root=folder,
            system_prompt=means.system_prompt,
            verbose=means.verbose,
        )
        for run in reversed(list(list_runs(folder))):  # the latest first
            if (done := await _gone_on(orchestrator, run, means.limits)) is not None:
                return replace(_of_run(done), run_dir=run.directory, resumed=True)
        return _of_run(await orchestrator.acompletion(instance.context, instance.query))

    return rlm


async def _gone_on(orchestrator: Orchestrator, run: RunSummary, limits: Limits) -> Completion | None:
    """The end of a run that was begun before; None where nothing can be made of it, and it has to be begun anew."""
    try:
        match run.state:
            case "finished":  # and the process was killed before the row was written: the journal has all replies
                return await orchestrator.areplay(run.directory)
            case "interrupted" | "failed" if run.calls:
                return await orchestrator.aresume(run.directory, limits=limits)
    except (ConfigError, JournalError, ReplayDivergedError):
        return None
    return None


def _of_run(done: Completion) -> Outcome:
    return Outcome(
        answer=done.answer,
        usage=done.usage,
        by_node=done.by_node,
        stop_reason=done.stop_reason,
        iterations=done.iterations,
        sub_calls=done.sub_calls,
        depth=done.depth_reached,
        sandboxes=done.sandboxes,
        run_dir=done.run_dir,
    )
