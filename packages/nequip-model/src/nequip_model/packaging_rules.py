"""What this distribution declares for packaging."""

from __future__ import annotations

from nequip_core.archive.rules import PackagingRules

__all__ = ["RULES"]

# e3nn is internal for models of extension packages; this distribution's own runtime modules
# never import it.
RULES = PackagingRules(internal=("nequip_model", "e3nn"))
