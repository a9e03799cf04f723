"""``nequip-package upgrade``: an older package in the current format."""

from __future__ import annotations

import argparse
from typing import Any

from nequip_package.commands.arguments import add_paths, add_trust_option, input_file

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``upgrade`` to the subcommands."""
    parser = commands.add_parser(
        "upgrade",
        help="rewrite a package of an older format in the current one",
        description="Rewrite a package of an older format, also one made by NequIP itself, in the "
        "current one. The code in it stays, and so do its predictions.",
    )
    add_paths(parser)
    add_trust_option(parser)
    parser.set_defaults(body=_upgrade)


def _upgrade(options: argparse.Namespace) -> None:
    from nequip_package.progress import Progress

    source = input_file(options.input_path)
    progress = Progress()
    from nequip_package.upgrade import upgrade_package

    output = upgrade_package(
        source, options.output_path, trust_code=options.trust_code, report=progress
    )
    progress.written(output)
