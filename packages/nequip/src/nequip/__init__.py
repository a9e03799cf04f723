"""The documented import paths of the NequIP framework; every object lives in one of the layers."""

from nequip._version import __version__

__all__ = ["__version__"]
