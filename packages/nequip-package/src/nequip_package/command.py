"""The command ``nequip-package``. torch is imported only by the subcommands that compute."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from nequip_core.command_line import run_command
from nequip_package._version import __version__
from nequip_package.commands import (
    audit,
    build,
    cache,
    card,
    convert,
    diff,
    info,
    members,
    modes,
    modify,
    serve,
    sign,
    update,
    upgrade,
    verify,
)
from nequip_package.commands.arguments import paths_first, require_subcommand

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
    cache,
    serve,
)

# No space, no quota, a limit on sizes.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(args: Sequence[str] | None = None) -> int:
    """Run ``nequip-package`` and return its exit code.

    Args:
        args: the arguments, without the command's name; default those of the process.
    """
    parser, known = _parser()
    given = paths_first(sys.argv[1:] if args is None else args)
    if given and not given[0].startswith("-"):
        require_subcommand(parser, given[0], known)
    options = parser.parse_args(given)
    if options.subcommand is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code = run_command(lambda: options.body(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # What reads the output, `head` for instance, has seen enough.
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _drop_output()
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        return 1


def _drop_output() -> None:
    """Let nothing more be written: the interpreter flushes once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser and the names of the subcommands."""
    parser = argparse.ArgumentParser(
        prog="nequip-package",
        description="Archive a trained model together with the code that implements it.",
    )
    parser.add_argument("--version", action="version", version=f"nequip-package {__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND")
    for subcommand in _SUBCOMMANDS:
        subcommand.add_parser(commands)
    return parser, list(commands.choices)
