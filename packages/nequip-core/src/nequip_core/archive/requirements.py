"""Which modules a package needs from its environment, found by reading its sources only.

``.data/extern_modules`` lists every outside module that any packaged source names, including those
that a function imports once it is called (accelerator libraries, say). Loading needs only those
imported at module level by the sources that the pickled model leads to. Each of these must be
installed, in a version that does: by the requirement that the package records, else by that of
the packaging rules that are installed, else in a version with the same first number as the one
that the package was written with (for 0.x: the same first two).
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import pickletools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nequip_core.archive.format import EAGER_MODEL_MEMBER, METADATA_MEMBER
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.rules import PackagingRules
from nequip_core.distributions import distribution_version
from nequip_core.errors import FileFormatError, MissingDependencyError, PluginError
from nequip_core.plugins import PACKAGING, load_plugin, plugin_names

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

__all__ = ["Unmet", "check_external_modules", "missing_modules", "unmet_modules"]


@dataclass(frozen=True)
class Unmet:
    """An external module that is not there, or not in a version that does.

    Attributes:
        module: its top-level name.
        needed: the versions that do, as a PEP 440 specifier; empty if any.
        found: the version that is installed; None if the module is not installed.
    """

    module: str
    needed: str
    found: str | None


def missing_modules(package: PackageReader) -> list[str]:
    """Return the top-level modules that loading needs and this environment lacks, sorted."""
    return [unmet.module for unmet in unmet_modules(package) if unmet.found is None]


def unmet_modules(package: PackageReader) -> list[Unmet]:
    """Return what loading imports from outside and this environment lacks or has too old or new.

    Nothing is imported. Modules whose installed version cannot be found out are not judged.

    Raises:
        FileFormatError: the package is damaged, or records a requirement that is none.
    """
    versions = package.metadata.get("external_modules") or {}
    tops = sorted({name.partition(".")[0] for name in package.extern_modules})
    unmet = []
    for module in tops:
        if not _is_importable(module):
            recorded = versions.get(module)
            needed = _recorded_requirement(package, module)
            unmet.append(Unmet(module, needed or (f"=={recorded}" if recorded else ""), None))
        elif versions.get(module) or _recorded_requirement(package, module):
            found = _installed_version(module)
            needed = _requirement(package, module, versions.get(module), found)
            if found is not None and needed and not _admits(package, needed, found):
                unmet.append(Unmet(module, needed, found))
    # The sources are parsed only in the rare case that something does not fit.
    imported = _imported_on_load(package) if unmet else set()
    return [entry for entry in unmet if entry.module in imported]


def check_external_modules(package: PackageReader) -> None:
    """Check that everything that loading `package` imports from outside is installed and fits.

    Raises:
        MissingDependencyError: modules are missing or have other versions; the message has names,
            versions needed and versions found.
        FileFormatError: the package is damaged, or records a requirement that is none.
    """
    unmet = unmet_modules(package)
    if not unmet:
        return
    parts = []
    absent = [f"{entry.module}{entry.needed}" for entry in unmet if entry.found is None]
    if absent:
        parts.append(f"needs {', '.join(absent)}, which this environment lacks")
    parts += [
        f"needs {entry.module}{entry.needed}, found {entry.found}"
        for entry in unmet
        if entry.found is not None
    ]
    wanted = " ".join(f"'{entry.module}{entry.needed}'" for entry in unmet)
    raise MissingDependencyError(
        f"package '{package.path}' {'; '.join(parts)}; nothing of it was imported: "
        f"pip install {wanted}"
    )


def _recorded_requirement(package: PackageReader, module: str) -> str | None:
    recorded: str | None = (package.metadata.get("external_requirements") or {}).get(module)
    return recorded


def _requirement(
    package: PackageReader, module: str, written: str | None, found: str | None
) -> str | None:
    """Return the versions of an installed module that do, or None if any."""
    recorded = _recorded_requirement(package, module)
    if recorded is not None:
        return recorded
    if found is None or written is None or written == found:
        return None
    own = _own_requirements().get(module)
    return own if own is not None else _same_release(written)


def _own_requirements() -> dict[str, str]:
    """Return the requirements of the installed packaging rules."""
    found: dict[str, str] = {}
    for name in plugin_names(PACKAGING):
        try:
            rules = load_plugin(PACKAGING, name)
        except PluginError:
            continue  # a broken extension must not keep others' packages from loading
        if isinstance(rules, PackagingRules):
            found.update(rules.requirements)
    return found


def _same_release(written: str) -> str | None:
    """Return the requirement that stands in where none is known, by the version written with."""
    from packaging.version import Version

    try:
        release = Version(written).release
    except ValueError:  # no version, or a part of it has thousands of digits
        return None
    kept = release[:1] if release[0] > 0 else (*release, 0)[:2]
    return f"=={'.'.join(map(str, kept))}.*"


def _admits(package: PackageReader, needed: str, found: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        version = Version(found)
    except InvalidVersion:
        return True
    return _specifier(package, needed).contains(version, prereleases=True)


def _specifier(package: PackageReader, text: str) -> SpecifierSet:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        raise FileFormatError(
            f"'{METADATA_MEMBER}' of '{package.path}' must have version specifiers as "
            f"'external_requirements', found {text[:80]!r}"
        ) from None


def _is_importable(top_level: str) -> bool:
    if top_level in sys.builtin_module_names:
        return True
    try:
        return importlib.util.find_spec(top_level) is not None
    except (ImportError, ValueError):
        return False


def _installed_version(module: str) -> str | None:
    """Return the version of the distribution that provides a top-level module, or None."""
    version = distribution_version(module)
    if version is None:
        # The slow way, for modules that are not named like their distributions.
        owners = importlib.metadata.packages_distributions().get(module, [])
        version = importlib.metadata.version(owners[0]) if owners else None
    return version


def _imported_on_load(package: PackageReader) -> set[str]:
    """Return the top-level names of what loading the eager model imports."""
    sources = package.sources()
    pickled = package.read_bytes(EAGER_MODEL_MEMBER)
    waiting = [name for name in _module_names(package, pickled) if name in sources]
    done: set[str] = set()
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in done:
            continue
        done.add(module)
        is_package = sources[module].endswith("/__init__.py")
        try:
            tree = ast.parse(package.read_bytes(sources[module]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # written for another Python; running it will say so
        parts = module.split(".")
        names = {".".join(parts[:depth]) for depth in range(1, len(parts))}
        for name in _imports(tree, module if is_package else module.rpartition(".")[0]):
            found.add(name.partition(".")[0])
            names.add(name)
        waiting += [name for name in names if name in sources]
    return found


def _module_names(package: PackageReader, pickled: bytes) -> Iterator[str]:
    """Yield every string of a pickle that may name a module, without unpickling it."""
    try:
        for _, argument, _ in pickletools.genops(pickled):
            if isinstance(argument, str):
                yield argument.partition(" ")[0]
    except ValueError as error:
        raise FileFormatError(
            f"a model of '{package.path}' is no pickle: {str(error).splitlines()[0]}"
        ) from None


def _imports(body: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names that executing `body` imports for certain.

    Left out are imports inside functions, inside ``try`` and inside ``if``.
    """
    for node in ast.iter_child_nodes(body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            if node.level:
                base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                parent = f"{base}.{parent}" if parent else base
            yield parent
            yield from (f"{parent}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ClassDef | ast.With):
            yield from _imports(node, package)
