"""A read-only repository of packages over HTTP: a WSGI application over a folder.

| address | answer |
|---|---|
| ``/`` | a page with every model's card |
| ``/api/models/download/<group>/<model>:<version>`` | JSON: where the file is, its digests |
| ``/files/<group>/<model>/<version>.nequip.zip`` | the file, or a range of its bytes |

Packages are read as data; nothing of them runs. Only files that `models_in` lists are served.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.archive.reader import PackageReader
from nequip_core.digests import file_digest
from nequip_core.errors import ConfigError, NequIPError
from nequip_core.repository.folder import models_in, newer_in, package_path
from nequip_core.repository.names import ModelName, parse_name

__all__ = ["Repository"]

_API = "/api/models/download/"
_FILES = "/files/"
_CHUNK = 2**18
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?")
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "section{border-top:1px solid #ccc;padding:.5rem 0}dt{font-weight:600}dd{margin:0 0 .3rem 1rem;"
    "overflow-wrap:anywhere}code{background:#f2f2f2;padding:.1rem .3rem;overflow-wrap:anywhere}"
)
_SAFE = [
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], Any]


@dataclass(frozen=True)
class _Facts:
    """What is stated of a file."""

    size: int
    sha256: str
    identity: str
    card: dict[str, Any]


class Repository:
    """The WSGI application.

    Args:
        folder: the repository's folder, see `nequip_core.repository.folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Answer one request."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(start_response, "405 Method Not Allowed", "this repository is read-only")
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        path = "/" + path.lstrip("/")
        if path == "/":
            return _answer(start_response, "text/html; charset=utf-8", self._page().encode())
        if path.startswith(_API):
            return self._listing(path.removeprefix(_API), environ, start_response)
        if path.startswith(_FILES):
            return self._file(path.removeprefix(_FILES), environ, start_response)
        return _not_found(start_response)

    def _find(self, text: str) -> tuple[ModelName, Path] | None:
        """Return a model and its file; every part of the name has been checked for its letters."""
        try:
            name = parse_name(text)
        except ConfigError:
            return None
        path = package_path(self.folder, name)
        if not path.is_file() or not path.resolve().is_relative_to(self.folder):
            return None
        return name, path

    def _listing(self, text: str, environ: Environ, start_response: Start) -> Iterable[bytes]:
        found = self._find(text)
        if found is None:
            return _not_found(start_response)
        name, path = found
        try:
            facts = _facts_of(path)
        except NequIPError:
            return _text(start_response, "500 Internal Server Error", "the package is damaged")
        newer = newer_in(self.folder, name)
        # A client of HTTP/1.0 names no host.
        host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
        base = f"{environ['wsgi.url_scheme']}://{host}"
        content = {
            "modelId": str(name),
            "newerVersionId": None if newer is None else str(newer),
            "webUrl": f"{base}/#{quote(str(name))}",
            "artifact": {
                "downloadUrl": f"{base}{_FILES}{name.group}/{name.model}/{path.name}",
                "viewUrl": f"{base}/#{quote(str(name))}",
                "hostName": host,
                "doi": None,
                "sha256": facts.sha256,
                "size": facts.size,
                "identity": facts.identity,
            },
        }
        return _answer(start_response, "application/json", json.dumps(content).encode())

    def _file(self, text: str, environ: Environ, start_response: Start) -> Iterable[bytes]:
        group_and_model, _, file = text.rpartition("/")
        found = self._find(f"{group_and_model}:{file.removesuffix(PACKAGE_SUFFIX)}")
        if found is None or not file.endswith(PACKAGE_SUFFIX):
            return _not_found(start_response)
        try:
            facts = _facts_of(found[1])
        except NequIPError:
            return _text(start_response, "500 Internal Server Error", "the package is damaged")
        tag = f'"{facts.sha256}"'
        headers = [("Content-Type", "application/zip"), ("ETag", tag), ("Accept-Ranges", "bytes")]
        first, last, status = 0, facts.size - 1, "200 OK"
        wanted = _RANGE.fullmatch(environ.get("HTTP_RANGE", ""))
        if wanted and environ.get("HTTP_IF_RANGE", tag) == tag:
            first = int(wanted[1])
            last = min(last, int(wanted[2])) if wanted[2] else last
            status = "206 Partial Content"
            if first > last:
                headers.append(("Content-Range", f"bytes */{facts.size}"))
                start_response("416 Range Not Satisfiable", [*headers, ("Content-Length", "0")])
                return []
            headers.append(("Content-Range", f"bytes {first}-{last}/{facts.size}"))
        start_response(status, [*headers, ("Content-Length", str(last - first + 1)), *_SAFE])
        return (
            []
            if environ["REQUEST_METHOD"] == "HEAD"
            else _section(found[1].open("rb"), first, last)
        )

    def _page(self) -> str:
        sections = "\n".join(_section_of(name, path) for name, path in models_in(self.folder))
        return (
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>Models</title>"
            "<meta name='viewport' content='width=device-width'>"
            f"<style>{_STYLE}</style></head>\n<body><h1>Models</h1>\n"
            f"{sections or '<p>There is no model here yet.</p>'}\n</body></html>\n"
        )


def _section_of(name: ModelName, path: Path) -> str:
    """Return the part of the page about one model; whatever a file says is escaped."""
    start = f"<section id='{escape(quote(str(name)))}'><h2>{escape(str(name))}</h2>"
    try:
        facts = _facts_of(path)
    except NequIPError as error:
        return f"{start}<p>damaged: {escape(str(error).partition('from')[0])[:200]}</p></section>"
    rows = {
        "use it as": name.reference,
        "identity": facts.identity,
        "size": f"{facts.size / 1e6:.2f} MB",
        **{str(key): _shown(value) for key, value in facts.card.items()},
    }
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in rows.items())
    return f"{start}<dl>{listed}</dl></section>"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)


def _facts_of(path: Path) -> _Facts:
    """Return what is stated of a file, computed again only when the file has changed."""
    found = path.stat()
    return _computed(path, found.st_mtime_ns, found.st_size, found.st_ino)


@functools.lru_cache(maxsize=4096)
def _computed(path: Path, changed: int, size: int, number: int) -> _Facts:
    package = PackageReader(path)
    package.verify_contents()
    return _Facts(size, file_digest(path), package.identity, package.card)


def _section(file: BinaryIO, first: int, last: int) -> Iterator[bytes]:
    with file:
        file.seek(first)
        left = last - first + 1
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk


def _answer(
    start_response: Start, kind: str, content: bytes, status: str = "200 OK"
) -> Iterable[bytes]:
    headers = [("Content-Type", kind), ("Content-Length", str(len(content))), *_SAFE]
    start_response(status, headers)
    return [content]


def _text(start_response: Start, status: str, text: str) -> Iterable[bytes]:
    return _answer(start_response, "text/plain; charset=utf-8", f"{text}\n".encode(), status)


def _not_found(start_response: Start) -> Iterable[bytes]:
    return _text(start_response, "404 Not Found", "there is no such model here")
