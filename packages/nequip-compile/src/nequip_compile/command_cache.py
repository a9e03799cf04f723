"""The command ``nequip-compile cache``: list, check and remove what was compiled earlier."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nequip_compile.cache.folder import CACHE_VARIABLE, cache_folder
from nequip_compile.cache.maintenance import Pruning, damaged, listing, prune
from nequip_core.cache_pruning import add_pruning_options
from nequip_core.command_line import run_command
from nequip_core.errors import FileFormatError
from nequip_core.terminal import visible

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Args:
        words: of the command line, without ``nequip-compile cache``.
    """
    options = _parser().parse_args(words)
    folder = cache_folder()
    if folder is None:
        print(f"the compile cache is switched off ({CACHE_VARIABLE}, or no home folder)")
        return 0
    return run_command(lambda: options.body(folder, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nequip-compile cache",
        description="What was compiled earlier, and is used again where everything is equal.",
    )
    commands = parser.add_subparsers(required=True, metavar="list | prune | verify")
    one = commands.add_parser("list", help="print what is kept, last used first")
    one.add_argument("--json", action="store_true", help="print JSON")
    one.set_defaults(body=_list)
    one = commands.add_parser(
        "prune",
        help="remove from it",
        description="Remove damaged entries, failures older than a day, what killed processes "
        "left behind, and what the options say.",
    )
    add_pruning_options(one, "entry")
    one.add_argument("--failures", action="store_true", help="failed compilations, to try again")
    one.set_defaults(body=_prune)
    one = commands.add_parser("verify", help="compare every entry with its SHA-256")
    one.set_defaults(body=_verify)
    return parser


def _list(folder: Path, options: argparse.Namespace) -> None:
    content = listing(folder)
    print(json.dumps(content, indent=1) if options.json else "\n".join(_lines(content)))


def _lines(content: dict[str, Any]) -> list[str]:
    rows, failed = content["entries"], content["failures"]
    total = sum(row.get("bytes", 0) for row in rows)
    lines = [f"{content['folder']}: {len(rows)} compiled models, {total / 1e6:.1f} MB"]
    for row in rows:
        if "damaged" in row:
            lines.append(f"  {row['name'][:12]}  damaged: {row['damaged']}")
            continue
        key = row["key"]
        target = "all targets" if key["target"] is None else key["target"]["name"]
        lines.append(
            f"  {row['name'][:12]}  {row['bytes'] / 1e6:6.1f} MB  used {row['last_used']}  "
            f"{row['seconds']:.0f} s  {key['name']} {target} {key['machine']['device']} "
            f"torch {key['libraries'].get('torch')}"
        )
    for row in failed:
        first = (row["error"] or "unreadable").partition("\n")[0]
        lines.append(f"  {row['name'][:12]}  failed {row['time']}: {first}")
    return [visible(line) for line in lines]


def _prune(folder: Path, options: argparse.Namespace) -> None:
    pruning = Pruning(options.older_than, options.larger_than, options.failures, options.all)
    try:
        gone, failed = prune(folder, pruning)
    except OSError as error:
        raise FileFormatError(f"cannot remove from the cache '{folder}': {error}") from error
    print(f"removed {gone} compiled models and {failed} failures from {folder}")


def _verify(folder: Path, options: argparse.Namespace) -> int:
    wrong = damaged(folder)
    for name, reason in wrong.items():
        print(f"{name}: damaged: {reason}")
    count = len(listing(folder)["entries"])
    if wrong:
        print(f"{len(wrong)} of {count} are damaged; nequip-compile cache prune removes them")
        return 1
    print(f"all {count} are as they were kept, in {folder}")
    return 0
