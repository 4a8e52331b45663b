"""One RLM: its turns, replies, transcript and the queries of its cells. Imports calls and what is below."""
