"""Sandboxes for model-written code. Imports `rlm.config`, `rlm.errors`, `rlm.types`, `rlm.protocol` and `rlm._util`."""
