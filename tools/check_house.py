"""Check the rules of the house that a reader would otherwise have to remember.

Sizes, names, files that every distribution has, and what library code must not contain. Prints one
line per problem (where, what, fix) and exits with 1 if there are any.

Usage: python tools/check_house.py [ROOT]
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from import_names import import_name

FILE_LINES = 600
FUNCTION_LINES = 80
NOXFILE_LINES = 350
VAGUE_NAMES = {"utils.py", "helpers.py", "misc.py", "common.py", "util.py"}
DISTRIBUTION_FILES = ("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml")
MODULE_FILES = ("__init__.py", "_version.py", "py.typed")
# Spelled apart so that this file passes its own search.
UNFINISHED = re.compile("|".join((r"\bTO" r"DO\b", r"\bFIX" r"ME\b", r"\bX" r"XX\b")))
SKIPPED_FOLDERS = {"__pycache__", ".nox", ".venv", ".git", "demo-output", "dist", "build"}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(folder: Path) -> list[Path]:
    """Return the Python files below `folder`, without caches and environments."""
    return sorted(
        file
        for file in folder.rglob("*.py")
        if not SKIPPED_FOLDERS & set(file.relative_to(folder).parts)
    )


def code_lines(node: FunctionNode) -> int:
    """Return the length of a function's body in lines, its docstring not counted.

    The signature is not counted either: the builder of a network has thirty arguments, a line each,
    and shorter would not be clearer.
    """
    start = node.body[0].lineno
    if ast.get_docstring(node) is not None:
        start = (node.body[0].end_lineno or start) + 1
    return (node.end_lineno or start) - start + 1


def check_sizes(file: Path, where: str, tree: ast.Module, text: str) -> Iterator[str]:
    """Yield a problem for a file or function that outgrew its room."""
    lines = text.count("\n")
    limit = NOXFILE_LINES if where == "noxfile.py" else FILE_LINES
    if lines > limit:
        yield f"{where}: {lines} lines, at most {limit}; split it by topic"
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode) and (length := code_lines(node)) > FUNCTION_LINES:
            yield (
                f"{where}:{node.lineno}: function {node.name} has {length} lines, at most "
                f"{FUNCTION_LINES}; give its parts names"
            )


def check_unfinished(where: str, text: str) -> Iterator[str]:
    """Yield a problem for each mark of unfinished work."""
    for number, line in enumerate(text.splitlines(), 1):
        if mark := UNFINISHED.search(line):
            yield f"{where}:{number}: {mark.group()}; finish it, or describe it in an issue"


def is_abstract(node: FunctionNode) -> bool:
    """Tell whether a function is declared for subclasses to fill in."""
    return any("abstractmethod" in ast.unparse(item) for item in node.decorator_list)


def check_library(where: str, tree: ast.Module) -> Iterator[str]:
    """Yield a problem for each statement that library code must not hold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield (
                f"{where}:{node.lineno}: assert in library code vanishes under `python -O`; raise "
                "an error that says what, where and what to do"
            )
        elif isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(raised, ast.Name) and raised.id == "NotImplementedError":
                yield f"{where}:{node.lineno}: NotImplementedError; use abc.abstractmethod"


def check_exports(file: Path, where: str, tree: ast.Module) -> Iterator[str]:
    """Yield a problem if a public module does not say what it offers."""
    private = file.name.startswith("_") and file.name != "__init__.py"
    public_statements = [
        node for node in tree.body if isinstance(node, FunctionNode | ast.ClassDef | ast.Assign)
    ]
    if private or not public_statements:
        return
    names = {
        name.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    if "__all__" not in names:
        yield f"{where}: no __all__; list the public names, or start the file name with '_'"


def check_distribution(folder: Path, root: Path) -> Iterator[str]:
    """Yield a problem for each file that a distribution lacks."""
    where = folder.relative_to(root)
    for name in DISTRIBUTION_FILES:
        if not (folder / name).is_file():
            yield f"{where}: no {name}; every distribution has one"
    license_file, ours = folder / "LICENSE", root / "LICENSE"
    if license_file.is_file() and license_file.read_bytes() != ours.read_bytes():
        yield f"{where}/LICENSE: differs from the one at the root; copy it again"
    module = folder / "src" / import_name(folder.name)
    for name in MODULE_FILES:
        if not (module / name).is_file():
            yield f"{module.relative_to(root)}: no {name}; every distribution has one"
    if not list((folder / "tests").glob("test_*.py")):
        yield f"{where}/tests: no test_*.py; every distribution has its own tests"


def find_problems(root: Path) -> list[str]:
    """Return every problem of the repository at `root`, a line each."""
    folders = sorted(item.parent for item in (root / "packages").glob("*/pyproject.toml"))
    if not folders:
        return [f"{root}/packages: no distribution found; run from the repository root"]
    problems = [problem for folder in folders for problem in check_distribution(folder, root)]
    for file in python_files(root):
        where = str(file.relative_to(root))
        text = file.read_text()
        tree = ast.parse(text, where)
        problems += check_sizes(file, where, tree, text)
        problems += check_unfinished(where, text)
        if file.name in VAGUE_NAMES:
            problems.append(f"{where}: the name says nothing; name the topic")
        parts = file.relative_to(root).parts
        if file.name == "__init__.py" and "tests" in parts and "src" not in parts:
            problems.append(f"{where}: test folders are not packages; delete it")
        if file.relative_to(root).parts[0] == "packages" and "src" in file.parts:
            problems += check_library(where, tree)
            problems += check_exports(file, where, tree)
    return problems


def main() -> int:
    """Print the problems and return the exit code."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    problems = find_problems(root)
    print("\n".join(problems) if problems else "house: in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
