"""One model call: accounting, cache, and the way to the network. Imports store and what is below."""
