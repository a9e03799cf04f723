"""``nequip-compile info``: what a compiled file says about itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nequip_core.command_line import run_command

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Args:
        words: command-line words after ``info``.
    """
    parser = argparse.ArgumentParser(
        prog="nequip-compile info",
        description="Print what a compiled file says about itself. Nothing of it is run.",
    )
    parser.add_argument("path", help="a compiled model (.nequip.pt2 or .nequip.pth)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(words)
    return run_command(lambda: _print_information(Path(options.path), options.json))


def _print_information(path: Path, as_json: bool) -> None:
    from nequip_compile.information import information_json, information_lines

    print(information_json(path) if as_json else "\n".join(information_lines(path)))
