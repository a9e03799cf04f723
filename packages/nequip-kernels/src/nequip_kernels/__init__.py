"""Fast kernels for the hot operation of equivariant message passing.

Importing this package is cheap: torch is imported only by the modules that compute.
"""

from nequip_kernels._version import __version__

__all__ = ["__version__"]
