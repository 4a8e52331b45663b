"""The code inside a sandbox: the supervisor (PID 1) and the worker. Imports `rlm.protocol` and msgpack only."""
