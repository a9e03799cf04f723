"""Archiving trained NequIP models together with the code that implements them."""

from nequip_package._version import __version__

__all__ = ["__version__"]
