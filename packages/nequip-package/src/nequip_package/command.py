"""The command ``nequip-package``. torch is imported only by the subcommands that compute."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from nequip_core.command_line import run_command
from nequip_package._version import __version__
from nequip_package.commands import (
    audit,
    build,
    card,
    convert,
    diff,
    info,
    members,
    modes,
    modify,
    sign,
    update,
    upgrade,
    verify,
)

__all__ = ["main"]

# In the order of the help: make, look, check, change.
_SUBCOMMANDS = (
    build,
    modes,
    info,
    members,
    diff,
    audit,
    verify,
    card,
    sign,
    update,
    modify,
    upgrade,
    convert,
)


def main(args: Sequence[str] | None = None) -> int:
    """Run ``nequip-package`` and return its exit code.

    Args:
        args: the arguments, without the command's name; default those of the process.
    """
    parser = _parser()
    options = parser.parse_args(args)
    if options.subcommand is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code = run_command(lambda: options.body(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # What reads the output, `head` for instance, has seen enough. The interpreter flushes
        # standard output once more when it ends, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nequip-package",
        description="Archive a trained model together with the code that implements it.",
    )
    parser.add_argument("--version", action="version", version=f"nequip-package {__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND")
    for subcommand in _SUBCOMMANDS:
        subcommand.add_parser(commands)
    return parser
