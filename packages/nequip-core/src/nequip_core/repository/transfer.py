"""Requests to a repository over HTTP: with time-outs, retries, limits, and downloads that go on.

See `nequip_core.repository.session` for proxies, certificates and passwords.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from nequip_core.errors import DownloadError, MissingDependencyError
from nequip_core.repository.listing import LARGEST_LISTING, LARGEST_PACKAGE, Listing
from nequip_core.repository.settings import is_permitted
from nequip_core.repository.unfinished import Unfinished

if TYPE_CHECKING:
    import requests

__all__ = ["Transfer"]

_TIMEOUT = (10.0, 30.0)  # seconds: to connect, between two parts of an answer
_LONGEST_ANSWER = 60.0  # seconds
_RETRIES = 3
_ATTEMPTS_WITHOUT_PROGRESS = 4
_BACKOFF = 0.5  # seconds before the second attempt; doubled for each further one
_MOST_REDIRECTS = 5
_CHUNK = 2**14  # bytes; what of it had arrived when a connection breaks is lost
_BUSY = (429, 500, 502, 503, 504)
_LONGEST_WAIT = 30  # seconds, whatever a busy server asks for
_REDIRECTS = (301, 302, 303, 307, 308)
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

            from nequip_core.repository.session import new_session
        except ImportError as error:
            raise MissingDependencyError(
                "fetching models from a repository needs requests: "
                f"pip install 'nequip-core[repository]' ({error})"
            ) from error
        self._errors = (requests.RequestException, ValueError)
        self._passing = (requests.ConnectionError, requests.Timeout)
        self._lasting = requests.exceptions.SSLError  # is one of the former
        self._session = new_session()

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
            response = self._get(address)
        except self._errors as error:
            raise DownloadError(f"{address} cannot be reached: {_reason(error)}") from error
        with response:
            if response.status_code == 404:
                return None
            _require_success(response)
            try:
                return self._short(response), response.url
            except self._errors as error:
                raise DownloadError(
                    f"the answer of {address} broke off: {_reason(error)}"
                ) from error

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
        unfinished = Unfinished(part, address, listing)
        failures, most = 0, unfinished.size()
        while not unfinished.is_complete():
            try:
                self._continue(address, unfinished, listing, advance)
            except self._errors as error:
                failures = 0 if unfinished.size() > most else failures + 1
                most = max(most, unfinished.size())
                if failures >= _ATTEMPTS_WITHOUT_PROGRESS:
                    kept = unfinished.start()
                    hint = f"; {kept} bytes are kept, the next attempt goes on there" * bool(kept)
                    raise DownloadError(
                        f"the download from {address} broke off: {_reason(error)}{hint}"
                    ) from error
                time.sleep(_BACKOFF * 2**failures)
            else:
                return

    def _short(self, response: requests.Response) -> bytes:
        start, content = time.monotonic(), b""
        for chunk in response.iter_content(_CHUNK):
            content += chunk
            if len(content) > LARGEST_LISTING:
                raise DownloadError(
                    f"the answer of {response.url} has more than {LARGEST_LISTING} bytes"
                )
            if time.monotonic() - start > _LONGEST_ANSWER:
                raise DownloadError(f"the answer of {response.url} takes too long")
        return content

    def _continue(
        self, address: str, unfinished: Unfinished, listing: Listing, advance: Advance
    ) -> None:
        start = unfinished.start()
        headers = {"Range": f"bytes={start}-", "If-Range": unfinished.tag} if start else {}
        with self._get(address, {key: value for key, value in headers.items() if value}) as got:
            if got.status_code == 416 or not _continues(got, start, unfinished.tag):
                unfinished.clear()
                raise ValueError("the server has no such part of the file")
            _require_success(got)
            if got.status_code == 200:
                start = 0
            if got.headers.get("Content-Encoding", "identity") != "identity":
                raise DownloadError(f"{address} sends the file packed, which was not asked for")
            length = _length(got)
            total = listing.size or (None if length is None else start + length)
            largest = min(listing.size or LARGEST_PACKAGE, LARGEST_PACKAGE)
            if length is not None and start + length > largest:
                unfinished.clear()
                raise DownloadError(
                    f"{address} sends {start + length} bytes, at most {largest} are expected"
                )
            # A part of a file need not come with its tag again.
            unfinished.begin(got.headers.get("ETag", None if start else ""), start)
            self._write(got, unfinished.part, start, total, largest, advance)

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
            response = self._ask(address, headers)
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not target:
                return response
            response.close()
            following = urljoin(address, target)
            if not is_permitted(following, address):
                raise DownloadError(f"{address} redirects to {following[:200]!r}: not followed")
            address = following
        raise DownloadError(f"{address} redirects more than {_MOST_REDIRECTS} times")

    def _ask(self, address: str, headers: dict[str, str] | None) -> requests.Response:
        """Return an open answer, asking again where the server is busy or cannot be reached."""
        left, wait = _RETRIES, _BACKOFF
        while True:  # with retries of urllib3 each would print a warning
            asked_for = 0
            try:
                response = self._session.get(
                    address, headers=headers, stream=True, timeout=_TIMEOUT, allow_redirects=False
                )
            except self._passing as error:
                if left == 0 or isinstance(error, self._lasting):
                    raise
            except OSError as error:
                if isinstance(error, self._errors):
                    raise
                # A file of certificates that is not there, for instance.
                raise DownloadError(f"{address} cannot be asked: {error}") from error
            else:
                if left == 0 or response.status_code not in _BUSY:
                    return response
                response.close()
                asked_for = min(_seconds_to_wait(response), _LONGEST_WAIT)
            time.sleep(max(wait, asked_for))
            left, wait = left - 1, 2 * wait


def _require_success(response: requests.Response) -> None:
    if response.status_code not in (200, 206):
        raise DownloadError(
            f"{response.url} answers {response.status_code} {str(response.reason)[:80]}"
        )


def _seconds_to_wait(response: requests.Response) -> int:
    text = response.headers.get("Retry-After", "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _continues(response: requests.Response, start: int, tag: str) -> bool:
    """Return whether a part of a file is the one asked for; other answers are not looked at."""
    if response.status_code != 206:
        return True
    same = not tag or response.headers.get("ETag", tag) == tag
    return same and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


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
    text = " ".join(str(inner).split())[:300] or type(inner).__name__
    if isinstance(inner, ssl.SSLCertVerificationError):
        text += "; REQUESTS_CA_BUNDLE or SSL_CERT_FILE names the certificates to trust"
    return text
