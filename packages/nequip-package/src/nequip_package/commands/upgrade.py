"""``nequip-package upgrade``: an older package in the current format."""

from __future__ import annotations

import argparse
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_package.commands.build import add_trust_option

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``upgrade`` to the subcommands."""
    parser = commands.add_parser(
        "upgrade",
        help="rewrite a package of an older format in the current one",
        description="Rewrite a package of an older format, also one made by NequIP itself, in the "
        "current one. The code in it stays, and so do its predictions.",
    )
    parser.add_argument("input_path", help=f"package, {PACKAGE_SUFFIX}")
    parser.add_argument("output_path", help=f"package to write, {PACKAGE_SUFFIX}")
    add_trust_option(parser)
    parser.set_defaults(body=_upgrade)


def _upgrade(options: argparse.Namespace) -> None:
    from nequip_core.files import require_file, require_suffix
    from nequip_core.saved_model import local_file
    from nequip_package.progress import Progress

    source = require_suffix(local_file(options.input_path), PACKAGE_SUFFIX, "package")
    require_file(source, "package")
    progress = Progress()
    from nequip_package.upgrade import upgrade_package

    output = upgrade_package(
        source, options.output_path, trust_code=options.trust_code, report=progress
    )
    progress.written(output)
