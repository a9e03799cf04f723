"""What every command shares: exit codes and one-line errors instead of tracebacks."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from nequip_core.errors import NequIPError

__all__ = ["run_command"]

EXIT_OK, EXIT_FAILURE = 0, 1
# C0 but tab and line end, DEL, C1, and what reorders or hides text. Messages quote files of unknown
# origin, and a terminal obeys such characters.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)


def run_command(body: Callable[[], int | None]) -> int:
    """Run `body` and return the exit code of the command: 0, or 1 after a `NequIPError`.

    A `NequIPError` is printed to standard error as ``error: <message>``; an interrupt as
    ``interrupted``. Usage errors (exit code 2) are argparse's. Anything else is a bug and keeps
    its traceback.

    Args:
        body: the command without arguments; returns an exit code or None for success.
    """
    try:
        return body() or EXIT_OK
    except NequIPError as error:
        text = _CONTROL.sub(lambda found: ascii(found.group())[1:-1], str(error))
        print(f"error: {text}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_FAILURE
