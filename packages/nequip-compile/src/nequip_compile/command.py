"""The command ``nequip-compile``: to compile, and what can be done with compiled files."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["main"]

_OTHERS = ("cache", "info", "verify")
"""First words that name another command than compiling; each has a module of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Args:
        arguments: command-line words; default those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and words[0] in _OTHERS else "compile"
    module = importlib.import_module(f"nequip_compile.command_{name}")
    with _terminated_like_interrupted():
        code: int = module.main(words)
    return code


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
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


if __name__ == "__main__":
    sys.exit(main())
