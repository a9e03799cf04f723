"""``nequip-package card``: show the model card, or write a package with another one."""

from __future__ import annotations

import argparse
import datetime
import sys
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_package.commands.arguments import PACKAGE

__all__ = ["add_parser"]

_DESCRIPTION = f"""\
Show the model card, or write a package with another one. Nothing of the package is run.

  card A{PACKAGE_SUFFIX}                                        show it
  card A{PACKAGE_SUFFIX} B{PACKAGE_SUFFIX} --set license=MIT         write B with a changed one
"""


def add_parser(commands: Any) -> None:
    """Add ``card`` to the subcommands."""
    parser = commands.add_parser(
        "card",
        help="show or edit the model card",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pkg_path", help=PACKAGE)
    parser.add_argument("output_path", nargs="?", help="package to write, if the card is edited")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="set a value, YAML, e.g. metrics.forces_mae=0.012; repeatable",
    )
    parser.add_argument(
        "--unset", action="append", default=[], metavar="KEY", help="remove a value; repeatable"
    )
    parser.add_argument(
        "--from", metavar="FILE", dest="file", help="take values from a YAML or JSON mapping"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--yaml", action="store_true", help="print YAML for machines")
    form.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.set_defaults(body=lambda options: _card(options, parser))


def _card(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from nequip_core.archive.reader import PackageReader
    from nequip_core.saved_model import local_file

    is_edit = bool(options.changes or options.unset or options.file)
    if is_edit and options.output_path is None:
        parser.error(f"an edited card goes into a new package: name it, {PACKAGE_SUFFIX}")
    if options.output_path is not None and not is_edit:
        parser.error("nothing to change: use --set, --unset or --from")
    package = PackageReader(local_file(options.pkg_path))
    if not is_edit:
        _show(package.card, options)
        return
    from nequip_package.card import CARD_KEYS, edited_card, write_card

    changes = {**_from_file(options.file), **dict(map(_key_and_value, options.changes))}
    card = edited_card(package.card, changes, options.unset)
    if card == package.card:
        print("note: the card is as it was", file=sys.stderr)
    written = write_card(package, options.output_path, card)
    for key in changes:
        if key.partition(".")[0] not in CARD_KEYS:
            print(f"note: '{key}' is no key of the format; it is kept as it is", file=sys.stderr)
    if package.signatures():
        print("note: signatures are of the old package and were left out", file=sys.stderr)
    print(f"wrote {written.path}, identity {written.identity}", file=sys.stderr)


def _show(card: dict[str, Any], options: argparse.Namespace) -> None:
    from nequip_package.console import aligned_yaml, json_text, visible, yaml_text

    if options.json:
        print(json_text(card))
    elif options.yaml:
        print(yaml_text(card))
    else:
        for line in aligned_yaml(card) or ["(no model card)"]:
            print(visible(line))


def _key_and_value(text: str) -> tuple[str, Any]:
    import yaml

    from nequip_core.errors import ConfigError

    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes KEY=VALUE, got '{text}'")
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(
            f"the value of '{key}' is not YAML: {reason}; put text with special characters in "
            f"quotes: --set '{key}=\"...\"'"
        ) from error
    # YAML takes 2026-01-01 for a date; a card holds text.
    return key.strip(), value.strip() if isinstance(found, datetime.date) else found


def _from_file(file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    import yaml

    from nequip_core.errors import ConfigError
    from nequip_core.files import require_file

    try:
        content = yaml.safe_load(require_file(file, "file of card values").read_bytes())
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"'{file}' is not YAML: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"'{file}' must hold a mapping from keys of the card to values")
    return content
