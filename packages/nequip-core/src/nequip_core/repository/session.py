"""Requests as the user's environment wants them. Import it only where `requests` is installed."""

from __future__ import annotations

import os
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from nequip_core._version import __version__

__all__ = ["new_session"]


class _Direct(HTTPAdapter):
    """Goes past every proxy: plain http is asked on this machine only."""

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        return super().send(request, *args, **{**kwargs, "proxies": {}})


def new_session() -> requests.Session:
    """Return a session.

    Proxies (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``), passwords (``~/.netrc``) and the
    certificates to trust (``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``, ``SSL_CERT_FILE``,
    ``SSL_CERT_DIR``, in this order) are those of the environment.
    """
    session = requests.Session()
    session.mount("http://", _Direct())
    session.headers["User-Agent"] = f"nequip-core/{__version__} (Python)"
    # As it is: a part is continued at a byte of the file.
    session.headers["Accept-Encoding"] = "identity"
    # requests itself knows the first two.
    session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or True
    return session
