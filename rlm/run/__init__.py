"""One run: its questions, options, models and life cycle. Imports loop and what is below."""
