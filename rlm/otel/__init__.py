"""A run as OpenTelemetry spans, by the semantic conventions for generative AI. Needs the extra `rlm[otel]`.

    from rlm.otel import Tracing
    Orchestrator(on_event=Tracing()).completion(context, query)

An RLM is `invoke_agent`, a model call `chat`, a cell and a function of the host `execute_tool`, nested as the tree of the
run is. Spans have the times of the events: the record of a run gives the spans of the run itself (`rlm export --to otel`).
"""

from .tracing import Tracing as Tracing
