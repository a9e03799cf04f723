"""What every command shares: exit codes and one-line errors instead of tracebacks."""

from __future__ import annotations

import sys
from collections.abc import Callable

from nequip_core.errors import NequIPError
from nequip_core.terminal import visible

__all__ = ["run_command"]

EXIT_OK, EXIT_FAILURE = 0, 1


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
        # Messages quote files of unknown origin.
        text = "\n".join(visible(line) for line in str(error).split("\n"))
        print(f"error: {text}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_FAILURE
