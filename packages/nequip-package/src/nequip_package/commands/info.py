"""``nequip-package info``: what a package states about itself."""

from __future__ import annotations

import argparse
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``info`` to the subcommands."""
    parser = commands.add_parser("info", help="show what a package states about itself")
    parser.add_argument("pkg_path", help=f"package, {PACKAGE_SUFFIX}")
    parser.add_argument("--yaml", action="store_true", help="print YAML for machines")
    parser.set_defaults(body=_info)


def _info(options: argparse.Namespace) -> None:
    import yaml

    from nequip_core.archive.reader import PackageReader

    metadata = PackageReader(options.pkg_path).metadata
    if options.yaml:
        print(
            yaml.safe_dump({"package_metadata": metadata}, sort_keys=False, allow_unicode=True),
            end="",
        )
        return
    title = "Package Metadata"
    print(f"{title}\n{'=' * len(title)}")
    print(yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True), end="")
