"""One RLM: its turns, replies, transcript, and its cells' queries. Imports calls and what is below."""
