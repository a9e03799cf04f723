"""The command ``nequip-train cache``: list and remove the frames that were kept on disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from nequip_core.cache_pruning import add_pruning_options
from nequip_core.command_line import run_command
from nequip_core.errors import DataError, FileFormatError
from nequip_train.data.frame_folder import CACHE_VARIABLE, cache_folder, entries, prune

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Args:
        words: of the command line, without ``nequip-train cache``.
    """
    options = _parser().parse_args(words)
    folder = cache_folder()
    if folder is None:
        print(f"the cache of frames is switched off ({CACHE_VARIABLE}, or no home folder)")
        return 0
    return run_command(lambda: options.body(folder, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nequip-train cache",
        description="Frames with their neighbor lists, kept to be made once. A set that was not "
        "used for 30 days goes by itself when another one is kept.",
    )
    commands = parser.add_subparsers(required=True, metavar="list | prune")
    one = commands.add_parser("list", help="print what is kept, last used first")
    one.set_defaults(body=_list)
    one = commands.add_parser("prune", help="remove from it what the options say")
    add_pruning_options(one, "set")
    one.set_defaults(body=_prune)
    return parser


def _list(folder: Path, options: argparse.Namespace) -> None:
    found = entries(folder)
    total = sum(size for _, _, size in found)
    print(f"{folder}: {len(found)} sets of frames, {total / 1e6:.1f} MB")
    for path, used, size in found:
        when = datetime.fromtimestamp(used, UTC).isoformat(timespec="seconds")
        print(f"  {path.name[:12]}  {size / 1e6:9.1f} MB  used {when}  {_about(path)}")


def _about(path: Path) -> str:
    """Return what the entry says of its frames."""
    from nequip_train.data.frame_store import read_about

    try:
        about = read_about(path)
    except (DataError, OSError) as error:
        return f"damaged: {error}"
    text = f"{about['frames']} frames of {about['name']}"
    return text if text.isprintable() else ascii(text)[1:-1]


def _prune(folder: Path, options: argparse.Namespace) -> None:
    days = -1.0 if options.all else options.older_than
    try:
        gone, size = prune(folder, days, options.larger_than)
    except OSError as error:
        raise FileFormatError(f"cannot remove from the cache '{folder}': {error}") from error
    print(f"removed {gone} sets of frames, {size / 1e6:.1f} MB, from {folder}")
