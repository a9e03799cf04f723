"""Training of NequIP models. Importing this package is cheap: its modules import what they need."""

from __future__ import annotations

from nequip_train._version import __version__

__all__ = ["__version__"]
