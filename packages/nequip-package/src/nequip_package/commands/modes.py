"""``nequip-package modes``: what packages can be made of."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``modes`` to the subcommands."""
    parser = commands.add_parser(
        "modes",
        help="list the packaging modes and the forms of a model that each puts into a package",
        description="List the packaging modes and the forms of a model that each puts into a "
        "package. Extension packages can add modes.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.set_defaults(body=_modes)


def _modes(options: argparse.Namespace) -> None:
    from nequip_core.archive.modes import packaging_modes
    from nequip_core.plugins import import_extensions

    import_extensions()
    modes = {name: list(forms) for name, forms in sorted(packaging_modes().items())}
    if options.json:
        from nequip_package.console import json_text

        print(json_text(modes))
        return
    print("Available packaging modes:")
    for name, forms in modes.items():
        print(f"  {name}\t{forms}")
