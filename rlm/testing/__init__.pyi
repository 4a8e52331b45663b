"""The names of `rlm.testing`, each once; `__init__.py` loads one when it is first used."""

from .fake_provider import FakeProvider as FakeProvider
from .fake_provider import Fault as Fault
from .fake_provider import RateLimited as RateLimited
from .fake_provider import Reply as Reply
from .fake_provider import Request as Request
from .fake_provider import in_order as in_order
from .fake_sandbox import FakeSandbox as FakeSandbox
from .fake_sandbox import FakeSandboxes as FakeSandboxes
from .fake_sandbox import echo_cell as echo_cell
from .policies import ScriptedModel as ScriptedModel
from .policies import scripted_model_for as scripted_model_for
from .virtual_time import Deadlock as Deadlock
from .virtual_time import VirtualLoop as VirtualLoop
from .virtual_time import run_virtually as run_virtually
