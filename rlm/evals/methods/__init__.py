"""Ways to answer an instance: RLMs, plain models, and baselines without a model. Imports corpus, tasks, and `rlm.orchestrator` and what is below."""
