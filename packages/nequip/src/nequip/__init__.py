"""The documented import paths of the NequIP framework; every object lives in one of the layers.

Importing it imports the installed extension packages, so that they can register what they bring.
"""

from nequip._version import __version__
from nequip_core.plugins import extension_entries, warn_of_failing_extensions

__all__ = ["__version__"]

_DISCOVERED_NEQUIP_EXTENSION = extension_entries()

warn_of_failing_extensions()
