"""Check that each distribution declares what it imports and keeps the arrows.

Reads ``packages/*/pyproject.toml`` and the syntax trees of ``packages/*/src``; nothing is imported.
Prints one line per problem (where, what, fix) and exits with 1 if there are any.

Usage: python tools/check_dependencies.py [ROOT]
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Import name -> distribution, where the two differ in more than hyphens.
DISTRIBUTION_OF = {
    "allegro": "nequip-allegro",
    "functorch": "torch",
    "hydra": "hydra-core",
    "torch_sim": "torch-sim-atomistic",
    "yaml": "pyyaml",
}

# Distribution -> the layers it may import. The star: every arrow ends in core.
ARROWS = {
    "nequip-core": set(),
    "nequip-model": {"nequip-core"},
    "nequip-allegro": {"nequip-core", "nequip-model"},
    "nequip-train": {"nequip-core", "nequip-model"},
    "nequip-package": {"nequip-core"},
    "nequip-compile": {"nequip-core"},
    "nequip-integrations": {"nequip-core"},
    "nequip-kernels": {"nequip-core"},
    "nequip": {"nequip-core"},
}

# The facade declares every layer so that one name installs all; its modules reach them through
# the table of documented names.
USES_ALL_IT_DECLARES_EXCEPT = {"nequip"}


@dataclass
class Distribution:
    """What one ``pyproject.toml`` declares."""

    name: str
    folder: Path
    required: dict[str, Requirement] = field(default_factory=dict)
    optional: dict[str, Requirement] = field(default_factory=dict)


@dataclass(frozen=True)
class Import:
    """One import statement."""

    top_level: str
    where: str
    at_module_level: bool


def read_distribution(pyproject: Path) -> Distribution:
    """Return the name and requirements that `pyproject` declares."""
    project = tomllib.loads(pyproject.read_text())["project"]
    found = Distribution(canonicalize_name(project["name"]), pyproject.parent)
    for text in project.get("dependencies", []):
        requirement = Requirement(text)
        found.required[canonicalize_name(requirement.name)] = requirement
    for texts in project.get("optional-dependencies", {}).values():
        for text in texts:
            requirement = Requirement(text)
            found.optional[canonicalize_name(requirement.name)] = requirement
    return found


def distribution_of(module: str) -> str:
    """Return the distribution that provides a top-level module."""
    return canonicalize_name(DISTRIBUTION_OF.get(module, module))


def imported_names(node: ast.AST) -> list[str]:
    """Return the dotted names that one statement or call imports, relative imports left out."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func)
        value = node.args[0].value
        if called in {"importlib.import_module", "import_module"} and isinstance(value, str):
            return [value]
    return []


def find_imports(source: Path, root: Path) -> Iterator[Import]:
    """Yield every third-party or sibling import below `source`, lazy ones included."""
    own = {path.name for path in source.iterdir() if path.is_dir()}
    for file in sorted(source.rglob("*.py")):
        tree = ast.parse(file.read_text(), str(file))
        lazy = {
            id(inner)
            for outer in ast.walk(tree)
            if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for inner in ast.walk(outer)
        }
        for node in ast.walk(tree):
            for name in imported_names(node):
                top = name.partition(".")[0]
                if top in own or top in sys.stdlib_module_names:
                    continue
                where = f"{file.relative_to(root)}:{node.lineno}"  # type: ignore[attr-defined]
                yield Import(top, where, id(node) not in lazy)


def check_imports(found: Distribution, imports: list[Import]) -> Iterator[str]:
    """Yield a problem for each import that is undeclared or against the arrows."""
    for item in imports:
        needed = distribution_of(item.top_level)
        if needed in ARROWS and needed not in ARROWS[found.name]:
            yield (
                f"{item.where}: {found.name} imports {item.top_level}, against the arrows; "
                "pass it through nequip-core (a protocol, an entry point or a file)"
            )
        elif needed not in found.required and needed not in found.optional:
            yield (
                f"{item.where}: imports '{item.top_level}', which {found.name} does not declare; "
                f"add '{needed}' to [project] dependencies of {found.folder.name}/pyproject.toml"
            )


def check_declarations(found: Distribution, imports: list[Import]) -> Iterator[str]:
    """Yield a problem for each declaration that is unused, uncapped or against the arrows."""
    used = {distribution_of(item.top_level) for item in imports}
    where = f"{found.folder.name}/pyproject.toml"
    for name, requirement in {**found.optional, **found.required}.items():
        if name in ARROWS and not any(part.operator == "<" for part in requirement.specifier):
            yield f"{where}: '{requirement}' has no upper bound; write {name}>=a.b,<next-breaking"
        if found.name in USES_ALL_IT_DECLARES_EXCEPT:
            continue
        if name in ARROWS and name not in ARROWS[found.name]:
            if name in found.required:
                yield f"{where}: requires {name}, against the arrows; make it an extra or drop it"
        elif name not in used:
            yield f"{where}: declares '{name}' but nothing in src imports it; drop it"


def find_problems(root: Path) -> list[str]:
    """Return every problem of the repository at `root`, a line each."""
    pyprojects = sorted((root / "packages").glob("*/pyproject.toml"))
    if not pyprojects:
        return [f"{root}/packages: no distribution found; run from the repository root"]
    problems: list[str] = []
    for pyproject in pyprojects:
        found = read_distribution(pyproject)
        if found.name not in ARROWS:
            problems.append(
                f"packages/{found.folder.name}: a distribution without arrows; "
                "add it to ARROWS in tools/check_dependencies.py"
            )
            continue
        imports = list(find_imports(found.folder / "src", root))
        problems += check_imports(found, imports)
        problems += check_declarations(found, imports)
    return problems


def main() -> int:
    """Print the problems and return the exit code."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    problems = find_problems(root)
    print("\n".join(problems) if problems else "dependencies: every import is declared")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
