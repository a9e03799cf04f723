"""``nequip-package update``: a package with files replaced, its predictions unchanged."""

from __future__ import annotations

import argparse
from typing import Any

from nequip_package.commands.arguments import add_paths, add_trust_option, input_file

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
    add_paths(parser)
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
    from nequip_package.progress import Progress

    source = input_file(options.input_path)
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
