"""Stored runs: their trajectory, page and exports, read from the run directory. Imports otel and what is below."""
