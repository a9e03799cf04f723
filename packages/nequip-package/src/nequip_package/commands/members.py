"""``nequip-package list``: the files in a package with their sizes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from nequip_core.archive.format import STORAGE_SUFFIX
from nequip_package.commands.arguments import PACKAGE

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``list`` to the subcommands."""
    parser = commands.add_parser(
        "list",
        help="list the files in a package with their sizes",
        description="List the files in a package with their sizes in bytes, tensor data left out.",
    )
    parser.add_argument("pkg_path", help=PACKAGE)
    parser.add_argument("--all", action="store_true", help="list tensor data, too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--tree", action="store_true", help="show folders with what they hold")
    form.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.set_defaults(body=_list)


def _list(options: argparse.Namespace) -> None:
    from nequip_core.archive.reader import PackageReader
    from nequip_core.saved_model import local_file

    package = PackageReader(local_file(options.pkg_path))
    members = [
        (size, name)
        for size, name in package.members()
        if options.all or options.tree or not name.endswith(STORAGE_SUFFIX)
    ]
    if options.tree:
        _print_tree(members, options.all)
    elif options.json:
        from nequip_package.console import json_text

        print(json_text([{"name": name, "size": size} for size, name in members]))
    else:
        for size, name in members:
            print(f"{size:>12}  {name}")


def _print_tree(members: list[tuple[int, str]], with_storages: bool) -> None:
    from nequip_package.console import columns, paint, size_text

    root: dict[str, Any] = {}
    for size, name in members:
        *folders, file = name.split("/")
        folder = root
        for part in folders:
            folder = folder.setdefault(part, {})
        folder[file] = size
    rows = [
        (paint(prefix, "dim") + (paint(name, "cyan") if is_folder else name), size_text(size), note)
        for prefix, name, size, is_folder, note in _rows(root, "", with_storages)
    ]
    for line in columns(rows, "lrl"):
        print(line)


def _rows(
    folder: dict[str, Any], indent: str, with_storages: bool, top: bool = True
) -> Iterator[tuple[str, str, int, bool, str]]:
    """Yield branch, name, size, whether it is a folder, and a note, for all that a folder holds."""
    hidden = {
        name: size
        for name, size in folder.items()
        if name.endswith(STORAGE_SUFFIX) and not with_storages
    }
    shown = [name for name in folder if name not in hidden]
    for name in shown:
        last = name == shown[-1] and not hidden
        branch = "" if top else "└── " if last else "├── "
        content = folder[name]
        if isinstance(content, dict):
            yield indent + branch, f"{name}/", _total(content), True, _note(content)
            below = "" if top else "    " if last else "│   "
            yield from _rows(content, indent + below, with_storages, top=False)
        else:
            yield indent + branch, name, content, False, ""
    if hidden:
        total, count = sum(hidden.values()), len(hidden)
        yield (
            f"{indent}└── ",
            f"{count} tensor{'s' * (count > 1)}",
            total,
            False,
            "--all lists them",
        )


def _total(folder: dict[str, Any]) -> int:
    return sum(
        _total(content) if isinstance(content, dict) else content for content in folder.values()
    )


def _note(folder: dict[str, Any]) -> str:
    count = _count(folder)
    return f"{count} file{'s' * (count > 1)}"


def _count(folder: dict[str, Any]) -> int:
    return sum(_count(content) if isinstance(content, dict) else 1 for content in folder.values())
