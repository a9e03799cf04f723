"""NequIP model architectures.

`nequip_model.nn` holds the modules that run; they travel inside packages and import torch and a
few leaf modules of `nequip_core` only. Everything else here builds them.
"""

from nequip_model._version import __version__

__all__ = ["__version__"]
