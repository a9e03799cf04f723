"""A read-only repository of packages over HTTP: a WSGI application over a folder.

| address | answer |
|---|---|
| ``/`` | a page with every model's card |
| ``/models/<group>/<model>`` | a page with the cards of its versions |
| ``/api/models/download/<group>/<model>:<version>`` | JSON: where the file is, its digests |
| ``/files/<group>/<model>/<version>.nequip.zip`` | the file, or a range of its bytes |

Packages are read as data; nothing of them runs. Only files that `models_in` lists are served.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.errors import ConfigError, NequIPError
from nequip_core.repository.folder import models_in, newer_in, package_path
from nequip_core.repository.names import ModelName, parse_name
from nequip_package.index_page import FILES, PAGES, index_page, model_page
from nequip_package.stated_facts import facts_of

__all__ = ["Repository"]

_API = "/api/models/download/"
_FILES = f"/{FILES}"
_PAGES = f"/{PAGES}"
_CHUNK = 2**18
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?")
_SAFE = [
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], Any]


class Repository:
    """The WSGI application.

    Args:
        folder: the repository's folder, see `nequip_core.repository.folder`.
        address: where clients reach it, if that is not what their requests say, because they ask
            another server that stands before it.
    """

    def __init__(self, folder: Path, address: str = "") -> None:
        self.folder = folder.resolve()
        self.address = address.rstrip("/")

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Answer one request."""
        answer = self._answered(environ, start_response)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else answer

    def _answered(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(start_response, "405 Method Not Allowed", "this repository is read-only")
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        path = "/" + path.lstrip("/")
        if path == "/":
            return _html(start_response, index_page(models_in(self.folder)))
        if path.startswith(_PAGES):
            family = path.removeprefix(_PAGES)
            found = [
                one for one in models_in(self.folder) if f"{one[0].group}/{one[0].model}" == family
            ]
            return _html(start_response, model_page(found)) if found else _not_found(start_response)
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
            facts = facts_of(path)
        except NequIPError:
            return _text(start_response, "500 Internal Server Error", "the package is damaged")
        newer = newer_in(self.folder, name)
        # A client of HTTP/1.0 names no host.
        host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
        base = self.address or f"{environ['wsgi.url_scheme']}://{host}"
        page = f"{base}{_PAGES}{name.group}/{name.model}#{name}"
        content = {
            "modelId": str(name),
            "newerVersionId": None if newer is None else str(newer),
            "webUrl": page,
            "artifact": {
                "downloadUrl": f"{base}{_FILES}{name.group}/{name.model}/{path.name}",
                "viewUrl": page,
                "hostName": base.partition("://")[2],
                "doi": facts.card.get("doi"),
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
            facts = facts_of(found[1])
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
        return _section(found[1], first, last)


def _section(path: Path, first: int, last: int) -> Iterator[bytes]:
    with path.open("rb") as file:
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


def _html(start_response: Start, page: str) -> Iterable[bytes]:
    return _answer(start_response, "text/html; charset=utf-8", page.encode())


def _text(start_response: Start, status: str, text: str) -> Iterable[bytes]:
    return _answer(start_response, "text/plain; charset=utf-8", f"{text}\n".encode(), status)


def _not_found(start_response: Start) -> Iterable[bytes]:
    return _text(start_response, "404 Not Found", "there is no such model here")
