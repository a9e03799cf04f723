"""``nequip-package update``: a package with files replaced, its predictions unchanged."""

from __future__ import annotations

import argparse
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_package.commands.build import add_trust_option

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``update`` to the subcommands."""
    parser = commands.add_parser(
        "update",
        usage="%(prog)s [-h] input_path output_path --replace PACKAGE_FILE [FILE] [--trust-code]",
        help="replace files in a package, predictions unchanged",
        description="Write a package in which files are replaced. It appears only if its models "
        "give what they gave before, for every reference frame.",
    )
    parser.add_argument("input_path", help=f"package, {PACKAGE_SUFFIX}")
    parser.add_argument("output_path", help=f"package to write, {PACKAGE_SUFFIX}")
    parser.add_argument(
        "--replace",
        action="append",
        nargs="+",
        required=True,
        metavar=("PACKAGE_FILE", "FILE"),
        dest="replacements",
        help="a file in the package, as nequip-package list shows it, and the local one (default: "
        "the installed one of that name); repeat it for several",
    )
    add_trust_option(parser)
    parser.set_defaults(body=_update, parser=parser)


def _update(options: argparse.Namespace) -> None:
    from nequip_core.files import require_file, require_suffix
    from nequip_core.saved_model import local_file
    from nequip_package.progress import Progress

    source = require_suffix(local_file(options.input_path), PACKAGE_SUFFIX, "package")
    require_file(source, "package")
    replacements = []
    for words in options.replacements:
        if len(words) > 2:
            options.parser.error(
                f"--replace takes one or two paths, got {len(words)}: {words}; "
                "the input and the output come before it"
            )
        replacements.append((words[0], words[1] if len(words) == 2 else None))
    progress = Progress()
    from nequip_package.update import update_package

    output = update_package(
        source, options.output_path, replacements, trust_code=options.trust_code, report=progress
    )
    progress.written(output)
