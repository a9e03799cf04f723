"""``nequip-package serve`` and ``push``: a folder of packages as a repository."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nequip_package.commands.arguments import PACKAGE

__all__ = ["add_parser"]

_LOOPBACK = "127.0.0.1"
_THREADS = 16  # a download keeps one busy


def add_parser(commands: Any) -> None:
    """Add ``serve`` and ``push`` to the subcommands."""
    push = commands.add_parser(
        "push",
        help="put a package into a repository's folder",
        description="Copy a package to DIR/<group>/<model>/<version>.nequip.zip. Nothing of it is "
        "run, and no package that is there already is replaced by another.",
    )
    push.add_argument("pkg_path", help=PACKAGE)
    push.add_argument("folder", metavar="DIR", help="the repository's folder, made if needed")
    push.add_argument("name", metavar="NAME", help="<group>/<model>:<version>")
    push.set_defaults(body=_push)
    serve = commands.add_parser(
        "serve",
        help="serve a folder of packages as a repository, read-only",
        description="Serve a folder of packages over HTTP, for this machine unless --host says "
        "otherwise. Nothing of the packages is run.",
    )
    serve.add_argument("folder", metavar="DIR", help="the repository's folder")
    serve.add_argument("--host", default=_LOOPBACK, help=f"address to listen at ({_LOOPBACK})")
    serve.add_argument("--port", type=_port, default=8765, help="port; 0 takes a free one (8765)")
    serve.add_argument(
        "--url",
        type=_address,
        metavar="ADDRESS",
        help="where clients reach it, if a web server stands before it: https://models.example.org",
    )
    serve.set_defaults(body=_serve)


def _push(options: argparse.Namespace) -> None:
    import shutil

    from nequip_core.archive.reader import PackageReader
    from nequip_core.errors import ConfigError
    from nequip_core.files import atomic_path
    from nequip_core.repository.folder import package_path
    from nequip_core.repository.names import SCHEME, parse_name
    from nequip_core.saved_model import local_file

    name = parse_name(options.name.removeprefix(SCHEME))
    package = PackageReader(local_file(options.pkg_path))
    package.verify_contents()
    target = package_path(Path(options.folder), name)
    if target.exists():
        there = PackageReader(target)
        if there.identity != package.identity:
            raise ConfigError(
                f"'{name}' is there already, as another package; publish a new version\n"
                f"  identity there: {there.identity}\n  identity given: {package.identity}"
            )
    with atomic_path(target) as scratch:
        shutil.copyfile(package.path, scratch)
    print(f"wrote {target}, identity {package.identity}", file=sys.stderr)


def _serve(options: argparse.Namespace) -> None:
    from nequip_core.errors import ConfigError, MissingDependencyError, MissingFileError
    from nequip_core.repository.settings import is_permitted
    from nequip_package.serving import Repository

    folder = Path(options.folder)
    if not folder.is_dir():
        raise MissingFileError(f"no folder '{folder}' to serve")
    try:
        import waitress
    except ImportError as error:
        raise MissingDependencyError(
            f"serving needs waitress: pip install 'nequip-package[serve]' ({error})"
        ) from error
    try:
        server = waitress.create_server(
            Repository(folder, options.url or ""),
            host=options.host,
            port=options.port,
            threads=_THREADS,
            ident=None,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot listen at {options.host}:{options.port}: {error}") from error
    # A name may have several addresses.
    places = getattr(server, "effective_listen", None) or [
        (server.effective_host, server.effective_port)
    ]
    for host, port in places:
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"serving '{folder}' at {address}", file=sys.stderr)
    reached = options.url or address
    if options.url or is_permitted(address):
        print(f"for clients: NEQUIP_REPOSITORY={reached}", file=sys.stderr, flush=True)
    else:
        print(
            "clients take plain http from their own machine only: put a web server with a "
            "certificate before this one, and name it by --url",
            file=sys.stderr,
            flush=True,
        )
    server.run()


def _port(text: str) -> int:
    """Return a port; what is none is a usage error."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port, 0 to 65535")
    return int(text)


def _address(text: str) -> str:
    """Return the address of a server without its final slash; what is none is a usage error."""
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"'{text}' is no address, https://models.example.org")
    return text.rstrip("/")
