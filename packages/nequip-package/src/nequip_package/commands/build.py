"""``nequip-package build``: a package from a checkpoint."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX

__all__ = ["add_parser"]

_CHECKPOINT_SUFFIX = ".ckpt"


def add_parser(commands: Any) -> None:
    """Add ``build`` to the subcommands."""
    parser = commands.add_parser("build", help="make a package from a checkpoint")
    parser.add_argument("ckpt_path", help="checkpoint, .ckpt")
    parser.add_argument("output_path", help=f"package to write, {PACKAGE_SUFFIX}")
    parser.set_defaults(body=_build)


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
