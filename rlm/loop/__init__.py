"""One RLM: turns, replies, transcript, what cells may ask for. Imports calls and what is below."""
