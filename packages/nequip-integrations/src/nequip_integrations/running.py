"""How the commands of this distribution run: interrupts, full disks, and what has to be there."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nequip_core.command_line import run_command
from nequip_core.errors import MissingDependencyError

__all__ = ["require_library", "run_interruptibly", "terminated_like_interrupted"]

# No space, no quota, a limit on sizes.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_interruptibly(body: Callable[[], int | None]) -> int:
    """Run the body of a command and return its exit code: 0, or 1 with one line that says why.

    A terminated process cleans up as an interrupted one does; a reader of the output that goes away
    and a full disk are no bugs either.

    Args:
        body: the command; returns an exit code or None for success.
    """
    try:
        with terminated_like_interrupted():
            code = run_command(body)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The interpreter flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Take SIGTERM for an interrupt inside, so that temporary files are removed."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def require_library(module: str, what: str, extra: str) -> None:
    """Check that an optional library is installed.

    Args:
        module: its import name.
        what: what needs it, for the message.
        extra: the extra of nequip-integrations that brings it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingDependencyError(
            f"{what} needs {module}: pip install 'nequip-integrations[{extra}]'"
        )
