"""Arguments that several subcommands share, and the orders in which they may be given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.errors import closest
from nequip_core.repository.names import is_reference

__all__ = [
    "PACKAGE",
    "add_paths",
    "add_trust_option",
    "input_file",
    "is_package",
    "paths_first",
    "require_subcommand",
    "shown_name",
]

PACKAGE = f"package, {PACKAGE_SUFFIX}, or its name nequip.net:GROUP/MODEL:VERSION"
"""Help for an argument that is a package to read."""

# Options that take as many words as follow, paths of packages among them.
_GREEDY = {"modify": "--modifier", "update": "--replace"}


def add_paths(parser: argparse.ArgumentParser, source: str = PACKAGE) -> None:
    """Add ``input_path`` and ``output_path`` of a command that makes a package from a file.

    Args:
        parser: of the command.
        source: what the input is, for the help.
    """
    parser.add_argument("input_path", help=source)
    parser.add_argument("output_path", help=f"package to write, {PACKAGE_SUFFIX}")


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-code``, which consents to running the code that a file carries."""
    parser.add_argument(
        "--trust-code",
        action="store_true",
        default=None,
        help="consent to running the code that the file carries: only for files whose origin you "
        "trust (look first: nequip-package audit FILE)",
    )


def input_file(
    path: str, suffixes: str | tuple[str, ...] = PACKAGE_SUFFIX, what: str = "package"
) -> Path:
    """Return the file of an ``input_path``, which may be a reference.

    Args:
        path: what the user gave.
        suffixes: in which its name must end.
        what: what the file should be, for messages.

    Raises:
        FileFormatError: the name ends otherwise.
        MissingFileError: there is no such file.
        NequIPError: a reference cannot be fetched.
    """
    from nequip_core.files import require_file, require_suffix
    from nequip_core.saved_model import local_file

    return require_file(require_suffix(local_file(path), suffixes, what), what)


def is_package(word: str) -> bool:
    """Return whether a word of a command line is a package by its looks, or the name of one."""
    return word.endswith(PACKAGE_SUFFIX) or is_reference(word)


def shown_name(word: str, path: Path) -> str:
    """Return what a package is called in what is printed: its file's name, or what was asked for.

    Args:
        word: the argument.
        path: the file that it led to.
    """
    return word if is_reference(word) else path.name


def paths_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command with the packages before options that would take them.

    ``modify --modifier NAME in.nequip.zip out.nequip.zip`` is understood as
    ``modify in.nequip.zip out.nequip.zip --modifier NAME``: the name of a modifier, ``KEY=VALUE``
    or a replaced file never is the name of a package.
    """
    if not arguments or arguments[0] not in _GREEDY:
        return list(arguments)
    option = _GREEDY[arguments[0]]
    paths: list[str] = []
    others: list[str] = []
    is_inside = False
    for word in arguments[1:]:
        if word.startswith("-"):
            is_inside = word == option or word.startswith(f"{option}=")
        is_path = is_package(word) and "=" not in word
        (paths if is_inside and is_path else others).append(word)
    return [arguments[0], *paths, *others]


def require_subcommand(parser: argparse.ArgumentParser, word: str, known: Sequence[str]) -> None:
    """End with a usage error if a word is none of the subcommands."""
    if word not in known:
        parser.error(f"no command '{word}'{closest(word, list(known))} (one of {', '.join(known)})")
