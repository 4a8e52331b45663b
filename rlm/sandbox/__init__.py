"""Sandboxes: the seam (`base`), values on their way in (`values`), one conversation with a guest (`session`, `cell`),
containers (`spec`, `docker`, `container`) and the connections to them (`sockets`, `attach`).
"""
