"""Sandboxes: the seam (`base`), one conversation with a guest (`session`), containers (`spec`, `docker`)."""
