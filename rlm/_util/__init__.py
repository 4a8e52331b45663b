"""Helpers that every subpackage may use: logging, text, URLs, the blocking portal. Imports nothing of the package."""
