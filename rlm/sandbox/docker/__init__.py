"""Sandboxes in Docker containers. Imports the other modules of `rlm.sandbox`, and what those may import."""
