"""Run Recursive Language Models safely.

    from rlm import Orchestrator
    print(Orchestrator(depth=3).completion(context, "What changed between the two reports?"))

Importing the package is cheap and does no I/O beyond reading the list of public names in `__init__.pyi`: each is loaded
when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
