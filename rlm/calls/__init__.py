"""Model calls: accounting, cache, and the gateway to the network. Imports store and what is below."""
