"""rlm in other frameworks. Each module needs its own extra and imports orchestrator."""
