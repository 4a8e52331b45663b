"""Runs on disk: journal, run records, contexts, event log, locks. Imports sandbox, models and what is below."""
