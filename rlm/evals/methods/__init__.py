"""Ways to answer an instance: RLMs, plain models, and baselines. Imports corpus, tasks, orchestrator and below."""
