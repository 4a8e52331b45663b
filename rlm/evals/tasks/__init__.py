"""The tasks, one file each. Imports the corpus and `rlm.evals.task`."""
