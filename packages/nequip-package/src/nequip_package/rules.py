"""The packaging rules in force: those of every installed distribution, taken together."""

from __future__ import annotations

from nequip_core.archive.rules import PackagingRules, registered_rules
from nequip_core.errors import PackagingError, PluginError
from nequip_core.plugins import PACKAGING, import_extensions, load_plugin, plugin_names

__all__ = ["collect_rules", "merge_rules"]


def collect_rules() -> PackagingRules:
    """Return the union of all rules: entry points, extension packages, registered libraries.

    Every extension package is internal, and is imported so that it can register libraries.

    Raises:
        PluginError: an entry of `nequip.packaging` does not load to `PackagingRules`.
        PackagingError: two rules contradict each other.
    """
    sources: dict[str, PackagingRules] = {}
    for name in plugin_names(PACKAGING):
        rules = load_plugin(PACKAGING, name)
        if not isinstance(rules, PackagingRules):
            raise PluginError(
                f"'{name}' of entry-point group '{PACKAGING}' must be PackagingRules, "
                f"found {type(rules).__name__}"
            )
        sources[f"entry point '{name}'"] = rules
    for module in import_extensions():
        sources[f"extension package '{module}'"] = PackagingRules(
            internal=(module.partition(".")[0],)
        )
    sources["register_libraries_as_external_for_packaging"] = registered_rules()
    return merge_rules(sources)


def merge_rules(sources: dict[str, PackagingRules]) -> PackagingRules:
    """Return the union of `sources`, sorted.

    Args:
        sources: who declares -> what is declared.

    Raises:
        PackagingError: a module is declared in two categories; the message names both declarers.
    """
    declared: dict[str, tuple[str, str]] = {}
    for owner, rules in sources.items():
        for category in ("internal", "external", "mock"):
            for module in getattr(rules, category):
                known, known_owner = declared.setdefault(module, (category, owner))
                if known != category:
                    raise PackagingError(
                        f"'{module}' is declared {known} for packaging by {known_owner} and "
                        f"{category} by {owner}; it can be only one of them"
                    )
    _refuse_mixed_parts(declared)

    def of(category: str) -> tuple[str, ...]:
        return tuple(sorted(name for name, (kind, _) in declared.items() if kind == category))

    return PackagingRules(
        internal=of("internal"),
        external=of("external"),
        mock=of("mock"),
        requirements=_merge_requirements(sources),
    )


def _refuse_mixed_parts(declared: dict[str, tuple[str, str]]) -> None:
    """Check that no module is declared otherwise than a module above it."""
    for module, (category, owner) in declared.items():
        parts = module.split(".")
        for above in (".".join(parts[:depth]) for depth in range(1, len(parts))):
            known, known_owner = declared.get(above, (category, owner))
            if known != category:
                raise PackagingError(
                    f"'{module}' is declared {category} for packaging by {owner}, but it is a part "
                    f"of '{above}', declared {known} by {known_owner}; it can be only one of them"
                )


def _merge_requirements(sources: dict[str, PackagingRules]) -> dict[str, str]:
    """Return module -> specifier that satisfies everybody who states one.

    Raises:
        PackagingError: a specifier is none, or is stated for a module that is not external.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    external = {module for rules in sources.values() for module in rules.external}
    stated: dict[str, SpecifierSet] = {}
    for owner, rules in sources.items():
        for module, text in rules.requirements.items():
            if module not in external:
                raise PackagingError(
                    f"{owner} states versions of '{module}', which is not declared external for "
                    "packaging; add it to `external`"
                )
            try:
                stated[module] = stated.get(module, SpecifierSet()) & SpecifierSet(text)
            except InvalidSpecifier as error:
                raise PackagingError(
                    f"{owner} states '{text}' for '{module}', which is no PEP 440 specifier such "
                    "as '>=1.26,<3'"
                ) from error
    # Sorted, because a SpecifierSet prints in an order of its own.
    return {
        module: ",".join(sorted(str(part) for part in stated[module])) for module in sorted(stated)
    }
