"""``nequip-package list``: the files in a package with their sizes."""

from __future__ import annotations

import argparse
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX, STORAGE_SUFFIX

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``list`` to the subcommands."""
    parser = commands.add_parser("list", help="list the files in a package with their sizes")
    parser.add_argument("pkg_path", help=f"package, {PACKAGE_SUFFIX}")
    parser.set_defaults(body=_list)


def _list(options: argparse.Namespace) -> None:
    from nequip_core.archive.reader import PackageReader

    for size, name in PackageReader(options.pkg_path).members():
        if not name.endswith(STORAGE_SUFFIX):
            print(f"{size:>12}  {name}")
