"""``nequip-package cache`` and ``trust``: models fetched by name, and whose keys are accepted."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add ``cache`` and ``trust`` to the subcommands."""
    cache = commands.add_parser(
        "cache",
        help="models fetched by name: list, verify, prune, add, forget",
        description="Look after the models that were fetched by name. Nothing of them is run.",
    )
    actions = cache.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="every known name").set_defaults(body=_list)
    actions.add_parser("verify", help="check every byte").set_defaults(body=_verify)
    prune = actions.add_parser("prune", help="remove unfinished downloads and unnamed packages")
    prune.add_argument("--all", action="store_true", help="remove all packages; names stay bound")
    prune.set_defaults(body=_prune)
    add = actions.add_parser("add", help="put a package in by hand, for use without a network")
    add.add_argument("pkg_path", metavar="FILE", help="package, .nequip.zip")
    add.add_argument("name", metavar="NAME", help="nequip.net:<group>/<model>:<version>")
    add.set_defaults(body=_add)
    forget = actions.add_parser("forget", help="let a name stand for another package")
    forget.add_argument("name", metavar="NAME", help="nequip.net:<group>/<model>:<version>")
    forget.set_defaults(body=_forget)
    trust = commands.add_parser(
        "trust",
        help="accept the key with which somebody signs packages",
        description="Accept a public key. Once a version of a model that you fetched is signed "
        "with an accepted key, its other versions have to be as well. This is no consent to run "
        "code.",
    )
    trust.add_argument("key", nargs="?", help="public key: a file (PEM, OpenSSH), or base64")
    trust.add_argument("--owner", default="", help="whose it is, for you to remember")
    trust.add_argument("--remove", action="store_true", help="accept the key no longer")
    trust.set_defaults(body=lambda options: _trust(options, trust))


def _cache() -> Any:
    from nequip_core.repository.cache import ModelCache
    from nequip_core.repository.settings import cache_folder

    return ModelCache(cache_folder())


def _name(text: str) -> Any:
    from nequip_core.repository.names import SCHEME, parse_name

    return parse_name(text.removeprefix(SCHEME))


def _list(options: argparse.Namespace) -> None:
    from nequip_package.console import columns, size_text, visible

    cache = _cache()
    rows = []
    for record in cache.records():
        path = cache.package(record)
        size = size_text(path.stat().st_size) if path.exists() else "not here"
        rows.append((record.name, size, record.identity[:16], visible(record.source)))
    for line in columns(rows, "lrll"):
        print(line)
    if not rows:
        print(f"no models in {cache.folder}")


def _verify(options: argparse.Namespace) -> int:
    from nequip_core.errors import NequIPError
    from nequip_package.console import visible

    cache = _cache()
    bad = 0
    for record in cache.records():
        if not cache.package(record).exists():
            print(f"{record.name}: not here")
            continue
        try:
            cache.check(record)
            print(f"{record.name}: good")
        except NequIPError as error:
            bad += 1
            print(f"{record.name}: BAD: {visible(error)}")
    return 1 if bad else 0


def _prune(options: argparse.Namespace) -> None:
    from nequip_package.console import size_text

    removed = _cache().prune(everything=options.all)
    print(f"removed {len(removed)} files, {size_text(sum(size for _, size in removed))}")


def _add(options: argparse.Namespace) -> None:
    from nequip_core.files import require_file

    file = require_file(options.pkg_path, "package")
    path = _cache().add(file, _name(options.name), "added by hand")
    print(f"added {path}")


def _forget(options: argparse.Namespace) -> None:
    name = _name(options.name)
    _cache().forget(name)
    print(f"'{name}' stands for nothing now")


def _trust(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from nequip_core.repository.keys import accept_key, accepted_keys, forget_key
    from nequip_package.console import visible
    from nequip_package.signing import public_key_text, read_public_key

    if options.key is None:
        if options.remove or options.owner:
            parser.error("name the key")
        for key, owner in accepted_keys().items():
            print(f"{key}  {visible(owner)}".rstrip())
        return
    key = public_key_text(read_public_key(options.key))
    if options.remove:
        forget_key(key)
        print(f"no longer accepted: {key}")
    else:
        accept_key(key, options.owner)
        print(f"accepted: {key}")
