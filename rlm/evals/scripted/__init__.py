"""Scripted models that play tasks without a provider. Imports the corpus, tasks and models."""
