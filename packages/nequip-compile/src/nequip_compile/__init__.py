"""Compile saved models ahead of time for simulation engines.

Importing this package is cheap: torch is imported only by the modules that compute.
"""

from nequip_compile._version import __version__

__all__ = ["__version__"]
