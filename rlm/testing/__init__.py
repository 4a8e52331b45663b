"""Fakes for testing programs that use rlm: no Docker, no network, no cost. Imports sandbox, models and what is below.

    from rlm.testing import FakeSandboxes, ScriptedModel

Importing the package is cheap: a name is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
