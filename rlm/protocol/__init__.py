"""Messages and framing between host and guest, without I/O; imports msgpack only, as the image carries a copy."""
