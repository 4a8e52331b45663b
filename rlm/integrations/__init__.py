"""rlm inside of other frameworks; each module needs an extra of its own, and is imported by whoever wants it."""
