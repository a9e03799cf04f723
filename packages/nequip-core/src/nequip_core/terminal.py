"""Text of unknown origin, made harmless before a terminal gets it."""

from __future__ import annotations

import re

__all__ = ["visible"]

# C0 but tab, DEL, C1, and what ends lines, reorders or hides text; half of a surrogate pair cannot
# be printed at all.
_CONTROL = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: object) -> str:
    """Return `text` with control characters, line ends among them, written out; tabs stay."""
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], str(text))
