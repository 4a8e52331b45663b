"""Runs as OpenTelemetry spans, by the semantic conventions for generative AI. Imports loop and what is below.

The extra `rlm[otel]` brings the dependencies.

    from rlm.otel import Tracing
    Orchestrator(on_event=Tracing()).completion(context, query)

Spans nest like the call tree: an RLM is `invoke_agent`, a model call `chat`, a cell or host function `execute_tool`. Their
times are those of the events, so `rlm export --to otel` gives the same spans for a stored run.
"""

from .tracing import Tracing as Tracing
