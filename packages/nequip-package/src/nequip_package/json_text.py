"""JSON members of a package, in the one form that format 3 has for them."""

from __future__ import annotations

import json
from typing import Any

from nequip_core.errors import PackagingError

__all__ = ["json_bytes"]


def json_bytes(content: Any, what: str) -> bytes:
    """Return a JSON member: keys sorted, indented by one space, with a final newline.

    Args:
        content: plain data.
        what: what it is, for the message.

    Raises:
        PackagingError: `content` is more than plain data, or holds NaN or infinity.
    """
    try:
        text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise PackagingError(f"{what} must be plain data with finite numbers: {error}") from error
    return f"{text}\n".encode()
