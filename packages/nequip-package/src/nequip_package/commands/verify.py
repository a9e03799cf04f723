"""``nequip-package verify``: that a package is whole, of whom it is, and that it still predicts."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nequip_package.commands.arguments import PACKAGE, add_trust_option, shown_name

if TYPE_CHECKING:
    from nequip_core.archive.reader import PackageReader
    from nequip_package.signing import SignatureCheck
    from nequip_package.verify import Verification

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``verify`` to the subcommands."""
    parser = commands.add_parser(
        "verify",
        help="check contents, signatures and predictions of a package",
        description="Check every byte of a package against its manifest, check its signatures, and "
        "compare what its models predict here with the reference outputs that it carries: with "
        "its own code, where that is allowed, and built anew with the installed code.",
    )
    parser.add_argument("pkg_path", help=PACKAGE)
    parser.add_argument("--static", action="store_true", help="no predictions: run no model")
    parser.add_argument("--device", default="cpu", help="where the models run (default: cpu)")
    add_trust_option(parser)
    parser.add_argument("--key", help="demand a signature by this public key: a file, or base64")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.set_defaults(body=_verify)


def _verify(options: argparse.Namespace) -> int:
    from nequip_core.archive.reader import PackageReader
    from nequip_core.saved_model import local_file

    package = PackageReader(local_file(options.pkg_path))
    wanted = None
    if options.key is not None:
        from nequip_package.signing import public_key_text, read_public_key

        wanted = public_key_text(read_public_key(options.key))
    result = _checked(package, options)
    signatures, unchecked = _signatures(package, needed=wanted is not None)
    signed = wanted is None or any(
        found.is_valid and found.public_key == wanted for found in signatures
    )
    good = signed and all(found.is_valid for found in signatures) and (result is None or result.ok)
    if options.json:
        from nequip_package.console import json_text

        print(json_text(_plain(package, signatures, result, good)))
    else:
        title = shown_name(options.pkg_path, package.path)
        _print_contents(title, package, signatures, unchecked)
        if wanted is not None and not signed:
            print(f"no valid signature by {wanted}")
        if result is not None:
            _print_predictions(result)
        _print_verdict(good, static=options.static, result=result)
    return 0 if good else 1


def _signatures(package: PackageReader, needed: bool) -> tuple[list[SignatureCheck], str | None]:
    """Return the checked signatures, and why they could not be checked."""
    from nequip_core.errors import MissingDependencyError
    from nequip_package.signing import check_signatures

    try:
        return check_signatures(package), None
    except MissingDependencyError as error:
        if needed:
            raise
        return [], str(error)


def _checked(package: PackageReader, options: argparse.Namespace) -> Verification | None:
    """Check the contents, and unless ``--static`` return how predictions compare."""
    from nequip_package.progress import Progress

    progress = Progress()
    try:
        if options.static:
            package.verify_contents(progress.advance)
            return None
        progress(f"verifying {package.path}")
        from nequip_package.verify import verify_package

        return verify_package(
            package.path,
            device=options.device,
            trust_code=options.trust_code,
            progress=progress.advance,
        )
    finally:
        progress.end()


def _plain(
    package: PackageReader,
    signatures: list[SignatureCheck],
    result: Verification | None,
    good: bool,
) -> dict[str, Any]:
    return {
        "ok": good,
        "format": package.format_version,
        "identity": package.identity,
        "contents": "as in the manifest" if package.format_version >= 3 else "checksums agree",
        "signatures": [asdict(found) for found in signatures],
        "signed_by": [found.public_key for found in signatures if found.is_valid],
        "outputs": [asdict(row) for row in result.rows] if result else [],
        "not_compared": [asdict(skipped) for skipped in result.skipped] if result else [],
    }


def _print_contents(
    title: str, package: PackageReader, signatures: list[SignatureCheck], unchecked: str | None
) -> None:
    from nequip_package.console import columns, heading, paint, size_text, visible

    print(heading(visible(title)))
    number = len(package.members())
    size = size_text(package.path.stat().st_size)
    how = (
        "as its manifest says"
        if package.format_version >= 3
        else "checksums agree; this format has no manifest"
    )
    rows = [
        ("format", str(package.format_version)),
        ("identity", package.identity),
        ("contents", paint(f"{number} members, {size}: {how}", "green")),
    ]
    for found in signatures:
        state = paint("valid", "green") if found.is_valid else paint("NOT VALID", "red")
        who = f" of '{visible(found.signer)}'" if found.signer else ""
        rows.append(("signature", f"{state}{who}, key {visible(found.public_key)}"))
    if unchecked:
        rows.append(("signature", paint(f"not checked: {unchecked}", "yellow")))
    elif not signatures:
        rows.append(("signature", "none"))
    for line in columns(rows):
        print(line)


def _print_predictions(result: Verification) -> None:
    from nequip_package.console import columns, heading, paint, visible

    print(f"\n{heading('Predictions')}")
    if result.rows:
        titles = ("", "mode", "model", "frame", "output", "deviation", "tolerance", "")
        rows: list[tuple[str, ...]] = [titles]
        for row in result.rows:
            rows.append(
                (
                    row.way,
                    *(visible(part) for part in (row.mode, row.model, row.frame, row.field)),
                    f"{row.deviation:.1e}",
                    f"{row.tolerance:g}",
                    paint("ok", "green") if row.ok else paint("DIFFERS", "red"),
                )
            )
        for line in columns(rows, "lllllrrl"):
            print(line)
    for skipped in result.skipped:
        word = "FAILED" if skipped.is_failure else "not compared"
        print(f"{skipped.way}: {paint(word, 'red' if skipped.is_failure else 'yellow')}: ", end="")
        print(visible(skipped.reason))


def _print_verdict(good: bool, static: bool, result: Verification | None) -> None:
    from nequip_package.console import paint

    sys.stdout.flush()
    if not good:
        print(f"\n{paint('not verified', 'red')}")
    elif static:
        print(f"\n{paint('contents verified', 'green')}; predictions were not compared (--static)")
    elif result is not None and not result.ways:
        print(f"\n{paint('contents verified', 'green')}; no prediction could be compared")
    else:
        ways = " and by ".join(result.ways) if result else ""
        print(f"\n{paint('verified', 'green')} by {ways}")
