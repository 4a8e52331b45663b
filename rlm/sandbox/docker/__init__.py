"""The Docker engine for sandboxes; imports the modules of `rlm.sandbox` beside it and what they may import."""
