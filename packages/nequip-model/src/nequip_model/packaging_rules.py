"""What this distribution declares for packaging."""

from __future__ import annotations

from nequip_core.archive.rules import PackagingRules

__all__ = ["RULES"]

# e3nn is internal for models of extension packages; this distribution's own runtime modules
# never import it. functorch is a part of torch's distribution, sympy a dependency of torch: e3nn.o3
# and builders, which an extension may have in one file with its modules, import them.
RULES = PackagingRules(
    internal=("nequip_model", "e3nn"),
    external=("functorch", "sympy"),
)
