"""The channel between host and guest: messages and framing, without I/O.

Standard library and msgpack only. The sandbox image carries a copy of this package, so nothing here may import the rest
of `rlm`.
"""
