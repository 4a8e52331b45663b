"""Ways to answer a task: RLMs, plain models, and baselines without any model."""
