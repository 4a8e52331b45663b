"""What a run directory says of its run, read back: the events as a tree, limits, prompts as sent, the context."""
