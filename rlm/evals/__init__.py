"""Evaluations: tasks, the runner that gives them to an orchestrator, and the report."""
