"""Scripted models that play tasks without a provider."""
