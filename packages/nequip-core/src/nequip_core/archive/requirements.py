"""Which modules a package needs from its environment, found by reading its sources only.

``.data/extern_modules`` lists every outside module that any packaged source names, including those
that a function imports once it is called (accelerator libraries, say). Loading needs only those
imported at module level by the sources that the pickled model leads to.
"""

from __future__ import annotations

import ast
import importlib.util
import pickletools
import sys
from collections.abc import Iterator

from nequip_core.archive.format import EAGER_MODEL, MODEL_FOLDER
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import MissingDependencyError

__all__ = ["check_external_modules", "missing_modules"]


def missing_modules(package: PackageReader) -> list[str]:
    """Return the top-level modules that loading needs and this environment lacks, sorted."""
    tops = {name.partition(".")[0] for name in package.extern_modules}
    absent = {name for name in tops if not _is_importable(name)}
    # The sources are parsed only in the rare case that something is absent.
    return sorted(absent & _imported_on_load(package)) if absent else []


def check_external_modules(package: PackageReader) -> None:
    """Check that everything that loading `package` imports from outside is installed.

    Raises:
        MissingDependencyError: modules are missing; the message has names and versions.
    """
    missing = missing_modules(package)
    if not missing:
        return
    versions = package.metadata.get("external_modules") or {}
    listed = [f"{name}=={versions[name]}" if versions.get(name) else name for name in missing]
    raise MissingDependencyError(
        f"package '{package.path}' needs {', '.join(listed)}, which this environment lacks "
        f"(the versions are those it was written with): pip install {' '.join(listed)}"
    )


def _is_importable(top_level: str) -> bool:
    if top_level in sys.builtin_module_names:
        return True
    try:
        return importlib.util.find_spec(top_level) is not None
    except (ImportError, ValueError):
        return False


def _imported_on_load(package: PackageReader) -> set[str]:
    """Return the top-level names of what loading the eager model imports."""
    sources = package.sources()
    pickled = package.read_bytes(f"{MODEL_FOLDER}/{EAGER_MODEL}")
    waiting = [name for name in _module_names(pickled) if name in sources]
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
        except SyntaxError:
            continue  # written for another Python; running it will say so
        parts = module.split(".")
        names = {".".join(parts[:depth]) for depth in range(1, len(parts))}
        for name in _imports(tree, module if is_package else module.rpartition(".")[0]):
            found.add(name.partition(".")[0])
            names.add(name)
        waiting += [name for name in names if name in sources]
    return found


def _module_names(pickled: bytes) -> Iterator[str]:
    """Yield every string of a pickle that may name a module, without unpickling it."""
    for _, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str):
            yield argument.partition(" ")[0]


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
