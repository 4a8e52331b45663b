"""rlm in other frameworks. Each module requires its own extra. Imports orchestrator and what is below."""
