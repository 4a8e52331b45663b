"""On the disk: journal, run records, contexts, event log, locks. Imports sandbox, models, prompts and what is below."""
