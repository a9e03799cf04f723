"""``nequip-package sign``: a package with a signature added."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``sign`` to the subcommands."""
    parser = commands.add_parser(
        "sign",
        help="sign a package with an Ed25519 key",
        description="Write a package with a signature of its identity added. The identity, which "
        "covers every byte of models and code, stays. ssh-keygen -t ed25519 -f KEY makes a key.",
    )
    parser.add_argument("input_path", help=f"package to sign, {PACKAGE_SUFFIX}")
    parser.add_argument("output_path", help=f"package to write, {PACKAGE_SUFFIX}")
    parser.add_argument("--key", required=True, help="private key, PEM or OpenSSH")
    parser.add_argument("--signer", default="", help="who signs, free text")
    parser.set_defaults(body=_sign)


def _sign(options: argparse.Namespace) -> None:
    from nequip_core.archive.reader import PackageReader
    from nequip_package.signing import public_key_text, read_private_key, sign_package

    package = PackageReader(options.input_path)
    key = read_private_key(options.key, _ask_password)
    written = sign_package(package, options.output_path, key, options.signer)
    print(f"wrote {written.path}", file=sys.stderr)
    print(f"signed {written.identity}", file=sys.stderr)
    print(f"with the public key {public_key_text(key.public_key())}", file=sys.stderr)


def _ask_password() -> bytes:
    import getpass

    return getpass.getpass("password of the private key: ").encode()
