"""Ways to answer an instance: RLMs, plain models, and baselines without a model."""
