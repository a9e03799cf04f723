"""Requests to a repository over HTTP: with time-outs, retries, limits, and downloads that go on.

Proxies, certificates and passwords are those of the user's environment (``HTTPS_PROXY``,
``NO_PROXY``, ``REQUESTS_CA_BUNDLE``, ``~/.netrc``); a server on this machine is asked directly.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from nequip_core._version import __version__
from nequip_core.archive.texts import TextError, parse_json
from nequip_core.errors import DownloadError, MissingDependencyError
from nequip_core.repository.listing import LARGEST_LISTING, LARGEST_PACKAGE, Listing
from nequip_core.repository.settings import is_permitted

if TYPE_CHECKING:
    import requests

__all__ = ["Transfer"]

_TIMEOUT = (10.0, 60.0)  # seconds: to connect, between two parts of an answer
_LONGEST_ANSWER = 60.0  # seconds
_RETRIES = 3
_ATTEMPTS_WITHOUT_PROGRESS = 4
_BACKOFF = 0.5  # seconds before the second attempt; doubled for each further one
_MOST_REDIRECTS = 5
_CHUNK = 2**14  # bytes; what of it had arrived when a connection breaks is lost
_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (429, 500, 502, 503, 504)
_ZIP = b"PK\x03\x04"

Advance = Callable[[int, int | None], None]


class Transfer:
    """A session of requests; use as a context manager.

    Raises:
        MissingDependencyError: `requests` is not installed.
    """

    def __init__(self) -> None:
        try:
            import requests
            from requests.adapters import HTTPAdapter
            from urllib3.util import Retry
        except ImportError as error:
            raise MissingDependencyError(
                "fetching models from a repository needs requests: "
                f"pip install 'nequip-core[repository]' ({error})"
            ) from error
        self._errors = (requests.RequestException, ValueError)
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"nequip-core/{__version__} (Python)"
        # As it is: a part is continued at a byte of the file.
        self._session.headers["Accept-Encoding"] = "identity"
        retry = Retry(
            total=_RETRIES,
            backoff_factor=_BACKOFF,
            status_forcelist=_BUSY,
            allowed_methods=("GET",),
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *unused: object) -> None:
        self._session.close()

    def answer(self, address: str) -> tuple[bytes, str] | None:
        """Return a short answer and the address that it came from in the end; None for a 404.

        Raises:
            DownloadError: the address cannot be reached, or the answer is none.
        """
        try:
            with self._get(address) as response:
                if response.status_code == 404:
                    return None
                _require_success(response)
                start, content = time.monotonic(), b""
                for chunk in response.iter_content(_CHUNK):
                    content += chunk
                    if len(content) > LARGEST_LISTING:
                        raise DownloadError(
                            f"the answer of {address} has more than {LARGEST_LISTING} bytes"
                        )
                    if time.monotonic() - start > _LONGEST_ANSWER:
                        raise DownloadError(f"the answer of {address} takes too long")
                return content, response.url
        except self._errors as error:
            raise DownloadError(f"{address} cannot be reached: {_reason(error)}") from error

    def download(self, address: str, part: Path, listing: Listing, advance: Advance) -> None:
        """Write a file, going on where an earlier download of the same file ended.

        What is there when this fails stays, unless it cannot be of use.

        Args:
            address: where the file is.
            part: where it is written; beside it, what it is a part of.
            listing: what is stated of the file.
            advance: called with the bytes that are there, and in all, if known.

        Raises:
            DownloadError: the file cannot be had, or is none of a package.
        """
        mark = _Mark(part, address, listing)
        failures = 0
        while not mark.is_complete():
            before = mark.size()
            try:
                self._continue(address, mark, listing, advance)
            except self._errors as error:
                failures = 0 if mark.size() > before else failures + 1
                if failures >= _ATTEMPTS_WITHOUT_PROGRESS:
                    raise DownloadError(
                        f"the download from {address} broke off: {_reason(error)}; "
                        f"{mark.size()} bytes are kept, and the next attempt goes on there"
                    ) from error
                time.sleep(_BACKOFF * 2**failures)
            else:
                return

    def _continue(self, address: str, mark: _Mark, listing: Listing, advance: Advance) -> None:
        start = mark.start()
        headers = {"Range": f"bytes={start}-", "If-Range": mark.tag} if start else {}
        with self._get(address, {key: value for key, value in headers.items() if value}) as got:
            if got.status_code == 416:
                mark.clear()
                raise ValueError("the server has no such part of the file")
            _require_success(got)
            if got.status_code != 206 or not _starts_at(got, start):
                start = 0
            if got.headers.get("Content-Encoding", "identity") != "identity":
                raise DownloadError(f"{address} sends the file packed, which was not asked for")
            length = _length(got)
            total = listing.size or (None if length is None else start + length)
            largest = min(listing.size or LARGEST_PACKAGE, LARGEST_PACKAGE)
            if length is not None and start + length > largest:
                mark.clear()
                raise DownloadError(
                    f"{address} sends {start + length} bytes, at most {largest} are expected"
                )
            mark.begin(got.headers.get("ETag", ""), start)
            self._write(got, mark.part, start, total, largest, advance)

    def _write(
        self,
        response: requests.Response,
        part: Path,
        start: int,
        total: int | None,
        largest: int,
        advance: Advance,
    ) -> None:
        done = start
        with part.open("r+b", buffering=0) as file:
            file.seek(start)
            for chunk in response.iter_content(_CHUNK):
                if done == 0 and not chunk.startswith(_ZIP):
                    raise DownloadError(f"{response.url} sends {_kind(chunk)}, no package")
                done += len(chunk)
                if done > largest:
                    file.truncate(0)
                    raise DownloadError(
                        f"{response.url} sends more than the {largest} bytes that are expected"
                    )
                left = memoryview(chunk)
                while left:  # a disk that gets full may take a part
                    left = left[file.write(left) :]
                advance(done, total)
        if done == 0:
            raise DownloadError(f"{response.url} sends an empty file")
        if total is not None and done < total:
            raise ValueError(f"it ended after {done} of {total} bytes")

    def _get(self, address: str, headers: dict[str, str] | None = None) -> requests.Response:
        """Return an open answer, redirects followed where that is permitted."""
        for _ in range(_MOST_REDIRECTS + 1):
            # None keeps the environment's proxy for http away: http is of this machine only.
            response = self._session.get(
                address,
                headers=headers,
                stream=True,
                timeout=_TIMEOUT,
                allow_redirects=False,
                proxies={"http": None},  # type: ignore[dict-item]
            )
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not target:
                return response
            response.close()
            following = urljoin(address, target)
            if not is_permitted(following, address):
                raise DownloadError(f"{address} redirects to {following[:200]!r}: not followed")
            address = following
        raise DownloadError(f"{address} redirects more than {_MOST_REDIRECTS} times")


class _Mark:
    """What a part is a part of: a file beside it that says so."""

    def __init__(self, part: Path, address: str, listing: Listing) -> None:
        self.part = part
        self.tag = ""
        self._file = part.with_name(f"{part.name}.json")
        self._stated = {"address": address, "sha256": listing.sha256, "size": listing.size}
        self._size = listing.size
        found = self._read()
        self._fits = {key: found.get(key) for key in self._stated} == self._stated
        if not self._fits and listing.sha256 is not None:
            # The same file on another server: its digest decides in the end.
            self._fits = found.get("sha256") == listing.sha256
        tag = found.get("tag")
        if self._fits and isinstance(tag, str) and found.get("address") == address:
            self.tag = tag

    def size(self) -> int:
        """Return the bytes that are there."""
        return self.part.stat().st_size if self.part.exists() else 0

    def start(self) -> int:
        """Return at which byte to go on: 0 where nothing tells that it is the same file."""
        known = self.tag or self._stated["sha256"]
        return self.size() if self._fits and known else 0

    def is_complete(self) -> bool:
        """Return whether all bytes that are stated are there already."""
        return self._fits and self._size is not None and self.size() == self._size

    def begin(self, tag: str, start: int) -> None:
        """Write down what is about to arrive, and drop what is there after `start`."""
        # A weak tag says that the files mean the same, not that their bytes are the same.
        self.tag = "" if tag.startswith("W/") else tag[:200]
        self._fits = True
        if start == 0:
            self.part.unlink(missing_ok=True)
        self._file.write_text(json.dumps({**self._stated, "tag": self.tag}), encoding="utf-8")
        self.part.touch(mode=0o600)
        os.truncate(self.part, start)

    def clear(self) -> None:
        """Remove the part."""
        self.part.unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)
        self.tag = ""

    def _read(self) -> dict[str, Any]:
        try:
            found = parse_json(self._file.read_bytes())
        except (OSError, TextError):
            return {}
        return found if isinstance(found, dict) else {}


def _require_success(response: requests.Response) -> None:
    if response.status_code not in (200, 206):
        raise DownloadError(
            f"{response.url} answers {response.status_code} {str(response.reason)[:80]}"
        )


def _starts_at(response: requests.Response, start: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _kind(start: bytes) -> str:
    """Return what a file is that is no zip file, by its first bytes."""
    text = start[:200].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page (a login, or an error)"
    return f"something that begins with {start[:8]!r}"


def _reason(error: BaseException) -> str:
    """Return the innermost reason of a failed request, in one line."""
    inner: Any = error
    while True:
        deeper = getattr(inner, "reason", None)
        if not isinstance(deeper, BaseException) and inner.args:
            deeper = next((item for item in inner.args if isinstance(item, BaseException)), None)
        if not isinstance(deeper, BaseException):
            break
        inner = deeper
    return " ".join(str(inner).split())[:300] or type(inner).__name__
