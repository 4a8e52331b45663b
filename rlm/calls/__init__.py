"""One model call: budget, cache, and the way to the network. Imports store and what is below."""
