"""Arguments that several subcommands share, and the orders in which they may be given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.errors import closest

__all__ = ["paths_first", "require_subcommand"]

# Options that take as many words as follow, paths of packages among them.
_GREEDY = {"modify": "--modifier", "update": "--replace"}


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
        is_path = word.endswith(PACKAGE_SUFFIX) and "=" not in word
        (paths if is_inside and is_path else others).append(word)
    return [arguments[0], *paths, *others]


def require_subcommand(parser: argparse.ArgumentParser, word: str, known: Sequence[str]) -> None:
    """End with a usage error if a word is none of the subcommands."""
    if word not in known:
        parser.error(f"no command '{word}'{closest(word, list(known))} (one of {', '.join(known)})")
