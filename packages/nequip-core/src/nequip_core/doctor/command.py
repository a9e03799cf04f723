"""The command ``nequip-doctor``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from nequip_core._version import __version__
from nequip_core.command_line import run_command
from nequip_core.errors import MissingDependencyError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 if something that is installed is broken, 2 for wrong usage.

    Args:
        arguments: command-line words; default those of the process.
    """
    options = _parser().parse_args(arguments)
    return run_command(lambda: _examine(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nequip-doctor",
        description="Examine this installation: the layers and their versions, torch and its "
        "devices, compilers, neighbor lists, fast kernels, plugins, folders and variables; say "
        "what works and what to install for the rest. Nothing is changed and no network is used.",
        epilog="exit code: 0 if nothing is broken, 1 if something that is installed is broken, 2 "
        "for wrong usage",
    )
    parser.add_argument(
        "--quick", action="store_true", help="compile nothing: seconds, not a minute"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _examine(options: argparse.Namespace) -> int:
    try:
        from nequip_core.doctor.examination import examine, verdict
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the module '{error.name}', which nequip-core requires, is not installed; run: "
            f"pip install {error.name}"
        ) from error
    from nequip_core.doctor.findings import as_json, as_text

    sections = examine(options.quick)
    text, code = verdict(sections)
    try:
        print(as_json(sections, text, code) if options.json else as_text(sections, text))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
