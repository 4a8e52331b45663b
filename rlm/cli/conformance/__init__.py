"""The questions with which `rlm doctor --server` tests a model server, and what their answers mean for rlm.

`questions` and `long_prompt` are pure: each question is a generator that yields requests, receives the answers, and
returns a verdict. `suite` asks. `advice` turns what was learned into settings.
"""
