"""Messages and framing between host and guest, without I/O. Imports msgpack only, as the image contains a copy."""
