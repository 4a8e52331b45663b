"""Sandboxes for model-written code; imports `rlm.config`, `rlm.errors`, `rlm.types`, `rlm.protocol` and `rlm._util`."""
