"""``nequip-compile verify``: the verification of an existing file, again, on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nequip_core.command_line import run_command
from nequip_core.compiled_metadata import (
    SOURCE_DIGEST_KEY,
    SOURCE_KEY,
    read_compiled_metadata,
    require_compiled_metadata,
)
from nequip_core.digests import file_digest
from nequip_core.origin import Origin
from nequip_core.saved_model import is_reference

if TYPE_CHECKING:
    from nequip_compile.verification import Verification

__all__ = ["main", "source_of"]

_DESCRIPTION = """Check a compiled model on this machine: its forces and stress against finite
differences of its own energy and, where the model it was compiled from is at hand, every output
against that. Nothing is written."""


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, 1 where a check fails, 2 for wrong usage.

    Args:
        words: command-line words after ``verify``.
    """
    parser = argparse.ArgumentParser(prog="nequip-compile verify", description=_DESCRIPTION)
    parser.add_argument("path", help="a compiled model (.nequip.pt2 or .nequip.pth)")
    parser.add_argument(
        "source",
        nargs="?",
        help="the checkpoint or package it was compiled from, or its name (default: the file of "
        "that name beside it, or what was fetched by that name, if it is the same)",
    )
    parser.add_argument("--device", help="where to run (default: where it was compiled for)")
    parser.add_argument("--data-path", help="data to compare on, as that of `nequip-compile`")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="consent to running the code that the saved model carries",
    )
    options = parser.parse_args(list(words))
    return run_command(lambda: _verify(options))


def source_of(path: Path, metadata: dict[str, str]) -> tuple[Path | None, str]:
    """Return the saved model that a compiled file was made from, or None and why not.

    It is the one beside the file, or the one of the reference that the metadata state.
    """
    name, digest = metadata.get(SOURCE_KEY, ""), metadata.get(SOURCE_DIGEST_KEY, "")
    if not name or not digest:
        return None, "it does not say what it was compiled from; name the file as SOURCE"
    if is_reference(name):
        found = Origin.of(metadata).find(path)
        return found, "" if found else f"'{name}', which it was compiled from, cannot be had"
    # Only the name: a path in the metadata of a file of unknown origin is not followed.
    beside = path.parent / Path(name).name
    if not beside.is_file():
        return None, (
            f"the model it was compiled from, '{name}', is not beside it; name it as SOURCE"
        )
    if file_digest(beside) != digest:
        return None, f"'{beside}' is another file than the one it was compiled from"
    return beside, ""


def _verify(options: argparse.Namespace) -> None:
    path = Path(options.path)
    metadata = read_compiled_metadata(path)
    require_compiled_metadata(metadata, path)
    source: str | Path | None
    if options.source is None:
        source, reason = source_of(path, metadata)
    else:
        source, reason = options.source, ""
    device = options.device or metadata.get("AOTI_DEVICE_KEY", "cpu")
    # From here on torch is needed, which takes seconds to import.
    from nequip_compile.physics import require_physics
    from nequip_compile.reverification import verify_again
    from nequip_compile.verify import require_agreement

    found, report = verify_again(
        path, source, device, options.trust_code or None, options.data_path
    )
    _print(found, report, reason, options.json)
    require_agreement(found.comparisons)
    require_physics(found.physics)


def _print(found: Verification, report: dict[str, object], reason: str, as_json: bool) -> None:
    from nequip_compile.report import verification_table

    if as_json:
        print(json.dumps({"passed": found.passed, "not_compared": reason, **report}, indent=1))
        return
    print(verification_table(found.comparisons, found.physics))
    if reason:
        print(f"not compared with the eager model: {reason}")
