"""Run NequIP models in simulation engines.

One module for each engine. Importing this package is cheap and needs none of them.
"""

from nequip_integrations._version import __version__

__all__ = ["__version__"]
