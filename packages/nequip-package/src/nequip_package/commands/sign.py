"""``nequip-package sign``: a package with a signature added."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from nequip_package.commands.arguments import add_paths

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``sign`` to the subcommands."""
    parser = commands.add_parser(
        "sign",
        help="sign a package with an Ed25519 key",
        description="Write a package with a signature of its identity added. The identity, which "
        "covers every byte of models and code, stays. ssh-keygen -t ed25519 -f KEY makes a key.",
    )
    add_paths(parser)
    parser.add_argument("--key", required=True, help="private key, PEM or OpenSSH")
    parser.add_argument("--signer", help="who signs, free text")
    parser.set_defaults(body=lambda options: _sign(options, parser))


def _sign(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if options.signer is not None and not options.signer.strip():
        parser.error("--signer is empty: name who signs, or leave the option out")
    from nequip_core.archive.reader import PackageReader
    from nequip_core.saved_model import local_file
    from nequip_package.output_path import require_other_file
    from nequip_package.signing import public_key_text, read_private_key, sign_package

    package = PackageReader(local_file(options.input_path))
    require_other_file(package.path, options.output_path)
    key = read_private_key(options.key, _ask_password)
    written = sign_package(package, options.output_path, key, options.signer or "")
    print(f"wrote {written.path}", file=sys.stderr)
    print(f"signed {written.identity}", file=sys.stderr)
    print(f"with the public key {public_key_text(key.public_key())}", file=sys.stderr)


def _ask_password() -> bytes:
    import getpass
    import warnings

    from nequip_core.errors import ConfigError

    try:
        with warnings.catch_warnings():
            # That what is typed would be seen, or comes from a pipe.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass("password of the private key: ").encode()
    except (EOFError, OSError, getpass.GetPassWarning) as error:
        raise ConfigError(
            "the private key has a password, and there is no terminal to ask for it; "
            "ssh-keygen -p -f KEY takes it off a copy of the key"
        ) from error
