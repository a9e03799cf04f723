"""Allegro: strictly local E(3)-equivariant interatomic potentials, as an extension of NequIP.

`allegro.nn` holds the modules that run and travel in packages, `allegro.model` builds them.
"""

from allegro._version import __version__

__all__ = ["__version__"]
