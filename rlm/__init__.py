"""Run Recursive Language Models safely.

    from rlm import Orchestrator
    print(Orchestrator(depth=3).completion(context, "What changed between the two reports?"))

Importing the package is cheap: it only reads `__init__.pyi`. A public name is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
