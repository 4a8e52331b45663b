"""A run read back from its directory: its trajectory, its page and its exports. Imports otel and what is below."""
