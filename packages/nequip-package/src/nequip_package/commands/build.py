"""``nequip-package build``: a package from a checkpoint, or from another package."""

from __future__ import annotations

import argparse
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.archive.modes import DEFAULT_MODE
from nequip_package.commands.arguments import add_trust_option, input_file

__all__ = ["add_parser"]

_SUFFIXES = (".ckpt", PACKAGE_SUFFIX)


def add_parser(commands: Any) -> None:
    """Add ``build`` to the subcommands."""
    parser = commands.add_parser(
        "build",
        help="make a package from a checkpoint",
        description="Make a package from a checkpoint. The file appears only after it has been "
        "loaded back and predicts what the model predicts.",
    )
    parser.add_argument(
        "ckpt_path",
        help=f"checkpoint, .ckpt; or package to package again, {PACKAGE_SUFFIX} or its name in a "
        "repository",
    )
    parser.add_argument("output_path", help=f"package to write, {PACKAGE_SUFFIX}")
    parser.add_argument(
        "--mode",
        default=DEFAULT_MODE,
        metavar="NAME",
        help="packaging mode: which forms of the model to package (see nequip-package modes; "
        "default: %(default)s)",
    )
    add_trust_option(parser)
    parser.set_defaults(body=_build)


def _build(options: argparse.Namespace) -> None:
    # Before the slow import of torch: names and files.
    from nequip_package.file_kinds import require_content_of_name
    from nequip_package.output_path import require_other_file
    from nequip_package.progress import Progress

    source = input_file(options.ckpt_path, _SUFFIXES, "checkpoint")
    require_content_of_name(source)
    output = require_other_file(source, options.output_path)
    _require_mode(options.mode)
    progress = Progress()
    progress(f"loading {source}")
    from nequip_package.build import build_package
    from nequip_package.forms import load_forms

    forms = load_forms(source, options.mode, options.trust_code)
    build_package(forms.saved, output, progress, further_modes=forms.further)
    progress.written(output)


def _require_mode(mode: str) -> None:
    """Check the packaging mode; extension packages, which can add some, are imported for others."""
    if mode == DEFAULT_MODE:
        return
    from nequip_core.archive.modes import forms_of_mode
    from nequip_core.plugins import import_extensions

    import_extensions()
    forms_of_mode(mode)
