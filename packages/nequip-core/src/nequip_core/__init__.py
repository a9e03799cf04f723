"""The inference base of NequIP.

Importing this package is cheap: torch is imported only by the modules that compute.
"""

from nequip_core._version import __version__

__all__ = ["__version__"]
