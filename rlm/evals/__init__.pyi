"""The public names, each once; `__init__.py` loads one when it is first used."""

from .registry import load_tasks as load_tasks
from .scorers import score as score
from .user_data import read_jsonl as read_jsonl
