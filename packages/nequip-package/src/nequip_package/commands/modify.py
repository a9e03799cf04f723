"""``nequip-package modify``: a package whose models are changed by persistent modifiers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from nequip_package.commands.arguments import add_paths, add_trust_option, input_file

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``modify`` to the subcommands."""
    parser = commands.add_parser(
        "modify",
        usage="%(prog)s [-h] input_path output_path --modifier NAME [KEY=VALUE ...] [--trust-code]",
        help="change the models of a package by their persistent modifiers",
        description="Write a package whose models, in every mode, are changed by their own "
        "persistent modifiers (nequip-package info --modifiers lists them). Modifiers and "
        "arguments are recorded in the lineage.",
    )
    add_paths(parser)
    parser.add_argument(
        "--modifier",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME", "KEY=VALUE"),
        dest="modifiers",
        help="a modifier and its arguments, values in YAML; repeat it for several, in order",
    )
    add_trust_option(parser)
    parser.set_defaults(body=_modify)


def _modify(options: argparse.Namespace) -> None:
    from nequip_package.progress import Progress

    source = input_file(options.input_path)
    modifiers = [_entry(words) for words in options.modifiers]
    progress = Progress()
    from nequip_package.modify import modify_package

    output = modify_package(
        source, options.output_path, modifiers, trust_code=options.trust_code, report=progress
    )
    progress.written(output)


def _entry(words: Sequence[str]) -> dict[str, Any]:
    """Return a modifier as `modify_package` takes it, from ``NAME KEY=VALUE ...``."""
    import yaml

    from nequip_core.errors import ConfigError

    entry: dict[str, Any] = {"modifier": words[0]}
    for word in words[1:]:
        key, equals, text = word.partition("=")
        if not equals or not key or key in entry:
            raise ConfigError(
                f"arguments of the modifier '{words[0]}' must be KEY=VALUE, each key once, "
                f"got '{word}'"
            )
        try:
            entry[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
            raise ConfigError(f"the value of '{word}' is not YAML: {reason}") from error
    return entry
