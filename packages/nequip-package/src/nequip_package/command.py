"""The command ``nequip-package``. torch is imported only to build."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from nequip_core.archive.format import PACKAGE_SUFFIX, STORAGE_SUFFIX
from nequip_core.command_line import run_command
from nequip_package._version import __version__

__all__ = ["main"]

_CHECKPOINT_SUFFIX = ".ckpt"


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
    return run_command(lambda: options.body(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nequip-package",
        description="Archive a trained model together with the code that implements it.",
    )
    parser.add_argument("--version", action="version", version=f"nequip-package {__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND")

    build = commands.add_parser("build", help="make a package from a checkpoint")
    build.add_argument("ckpt_path", help="checkpoint, .ckpt")
    build.add_argument("output_path", help=f"package to write, {PACKAGE_SUFFIX}")
    build.set_defaults(body=_build)

    info = commands.add_parser("info", help="show what a package states about itself")
    info.add_argument("pkg_path", help=f"package, {PACKAGE_SUFFIX}")
    info.add_argument("--yaml", action="store_true", help="print YAML for machines")
    info.set_defaults(body=_info)

    listing = commands.add_parser("list", help="list the files in a package with their sizes")
    listing.add_argument("pkg_path", help=f"package, {PACKAGE_SUFFIX}")
    listing.set_defaults(body=_list)
    return parser


def _build(options: argparse.Namespace) -> None:
    # Before the slow import of torch: names and files.
    from nequip_core.files import require_file, require_output_suffix, require_suffix

    source = require_suffix(options.ckpt_path, _CHECKPOINT_SUFFIX, "checkpoint")
    require_file(source, "checkpoint")
    output = require_output_suffix(options.output_path, PACKAGE_SUFFIX, "package")

    start = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - start:5.1f} s] {line} ...", file=sys.stderr, flush=True)

    report(f"loading {source}")
    from nequip_core.saved_model import load_saved_model
    from nequip_package.build import build_package

    saved = load_saved_model(source)
    build_package(saved, output, report)
    size = output.stat().st_size
    print(f"wrote {output} ({size / 1e3:.0f} kB)", file=sys.stderr)


def _info(options: argparse.Namespace) -> None:
    import yaml

    from nequip_core.archive.reader import PackageReader

    metadata = PackageReader(options.pkg_path).metadata
    if options.yaml:
        print(
            yaml.safe_dump({"package_metadata": metadata}, sort_keys=False, allow_unicode=True),
            end="",
        )
        return
    title = "Package Metadata"
    print(f"{title}\n{'=' * len(title)}")
    print(yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True), end="")


def _list(options: argparse.Namespace) -> None:
    from nequip_core.archive.reader import PackageReader

    for size, name in PackageReader(options.pkg_path).members():
        if not name.endswith(STORAGE_SUFFIX):
            print(f"{size:>12}  {name}")
