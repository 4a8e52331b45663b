"""RLMs of a given depth. Resumes interrupted runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlm.config import Limits
from rlm.errors import ConfigError, JournalError, ReplayDivergedError
from rlm.evals.task import Instance
from rlm.orchestrator import Orchestrator
from rlm.store.runs import RunSummary, list_runs
from rlm.types import Completion

from .base import Method, MethodContext, MethodOutcome


def rlm_of_depth(depth: int) -> Method:
    """The method that answers with an RLM whose calls go down `depth` levels."""

    async def rlm(instance: Instance, ctx: MethodContext, folder: Path) -> MethodOutcome:
        """Resume the latest resumable run of this instance, or start one."""
        model, sub_model = ctx.models(instance.task)
        orchestrator = Orchestrator(
            depth=depth,
            model=model,
            sub_model=sub_model,
            limits=ctx.limits,
            sandbox=ctx.sandbox,
            sandbox_factory=ctx.sandbox_factory,
            run_root=folder,
            system_prompt=ctx.system_prompt,
            verbose=ctx.verbose,
        )
        for run in reversed(list(list_runs(folder))):  # latest first
            if (completion := await _resume(orchestrator, run, ctx.limits)) is not None:
                return replace(_outcome(completion), run_dir=run.directory, resumed=True)
        return _outcome(await orchestrator.acompletion(instance.context, instance.query))

    return rlm


async def _resume(orchestrator: Orchestrator, run: RunSummary, limits: Limits) -> Completion | None:
    """Complete an earlier run. None if it has nothing worth resuming, or resuming fails."""
    try:
        match run.state:
            case "finished":  # the process ended before it wrote the row; the journal has every reply
                return await orchestrator.areplay(run.directory)
            case "interrupted" | "failed" if run.calls:
                return await orchestrator.aresume(run.directory, limits=limits)
    except (ConfigError, JournalError, ReplayDivergedError):
        return None
    return None


def _outcome(completion: Completion) -> MethodOutcome:
    return MethodOutcome(
        answer=completion.answer,
        usage=completion.usage,
        by_node=completion.by_node,
        stop_reason=completion.stop_reason,
        iterations=completion.iterations,
        sub_calls=completion.sub_calls,
        depth=completion.depth_reached,
        sandboxes=completion.sandboxes,
        run_dir=completion.run_dir,
    )
