"""Write the public names of each distribution, one per line, to compare with what was promised.

A public name is an entry of ``__all__`` of a module none of whose parts starts with an underscore.
The files in ``tests/contracts/public_names/`` are read by people in a review: a removed line is a
breaking change, an added one is a promise. Every distribution has to be installed.

Usage: python tools/public_names.py [--write]
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "contracts" / "public_names"


def public_names(source: Path) -> list[str]:
    """Return the dotted public names of the modules below a ``src`` folder, sorted."""
    names = []
    for file in source.rglob("*.py"):
        parts = file.relative_to(source).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            module = ".".join(parts)
            listed = getattr(importlib.import_module(module), "__all__", [])
            names += [f"{module}.{name}" for name in listed]
    return sorted(names)


def current_lists() -> dict[str, str]:
    """Return distribution -> its public names as the text of its file."""
    return {
        folder.parent.name: "".join(f"{name}\n" for name in public_names(folder))
        for folder in sorted((ROOT / "packages").glob("*/src"))
    }


def main() -> int:
    """Write the lists, or print the differences; return the exit code."""
    write = "--write" in sys.argv[1:]
    differences = []
    for name, text in current_lists().items():
        file = FOLDER / f"{name}.txt"
        if write:
            FOLDER.mkdir(exist_ok=True)
            file.write_text(text)
            continue
        promised = set(file.read_text().splitlines()) if file.exists() else set()
        current = set(text.splitlines())
        differences += [f"{name}: gone: {item}" for item in sorted(promised - current)]
        differences += [f"{name}: new: {item}" for item in sorted(current - promised)]
    print("\n".join(differences) if differences else "public names: as promised")
    if differences:
        print("if this is meant: python tools/public_names.py --write, and say so in the changelog")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
