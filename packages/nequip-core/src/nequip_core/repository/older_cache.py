"""Models that the implementation nequip has downloaded: read where they are, never changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.archive.texts import TextError, parse_json
from nequip_core.digests import file_digest
from nequip_core.repository.names import ModelName

__all__ = ["find_older"]

_LOG = logging.getLogger(__name__)
_SUFFIX = ".metadata.json"
_LARGEST = 2**16


def find_older(folder: Path, name: ModelName) -> Path | None:
    """Return the file of a model in such a folder if its digest is the recorded one, or None.

    Args:
        folder: holds ``<key>.nequip.zip`` and ``<key>.metadata.json`` with ``model_id`` and
            ``file_sha256``; need not exist.
        name: the model.
    """
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        recorded = _read(path)
        if recorded.get("model_id") != str(name):
            continue
        file = path.with_name(path.name.removesuffix(_SUFFIX) + PACKAGE_SUFFIX)
        if not file.is_file():
            continue
        digest = file_digest(file)
        if digest == recorded.get("file_sha256"):
            return file
        _LOG.warning("'%s' is not used: its SHA-256 is %s, not as recorded", file, digest)
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes() if path.stat().st_size <= _LARGEST else b"{}"
        found = parse_json(content)
    except (OSError, TextError):
        return {}
    return found if isinstance(found, dict) else {}
