"""``nequip-package convert``: our package from a package or checkpoint made by ``nequip``."""

from __future__ import annotations

import argparse
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_package.commands.arguments import PACKAGE, add_paths, add_trust_option, input_file

__all__ = ["add_parser"]

_SUFFIXES = (".ckpt", PACKAGE_SUFFIX)


def add_parser(commands: Any) -> None:
    """Add ``convert`` to the subcommands."""
    parser = commands.add_parser(
        "convert",
        help="make our package from a package or checkpoint made by nequip",
        description="Make a package with the model code of this project from a package or "
        "checkpoint that nequip wrote. Nothing in the file runs; with --trust-code a package's own "
        "code runs too, and its predictions are compared.",
    )
    add_paths(parser, f"checkpoint, .ckpt, or {PACKAGE}")
    parser.add_argument(
        "--converter",
        default="nequip",
        metavar="NAME",
        help="an entry of the group nequip.converters (default: %(default)s)",
    )
    add_trust_option(parser)
    parser.set_defaults(body=_convert)


def _convert(options: argparse.Namespace) -> None:
    from nequip_package.progress import Progress

    source = input_file(options.input_path, _SUFFIXES, "saved model")
    progress = Progress()
    from nequip_package.convert import convert_package

    output = convert_package(
        source,
        options.output_path,
        converter=options.converter,
        trust_code=options.trust_code,
        report=progress,
    )
    progress.written(output)
