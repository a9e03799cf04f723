"""Whether the C++ compiler can do what torch will ask of it, tried before minutes of work."""

from __future__ import annotations

import subprocess
import sys

from nequip_core.doctor.toolchain import compiler_command
from nequip_core.errors import CompileError

__all__ = ["compiler_identity", "require_compiler", "require_modern_compiler"]

# torch's headers are in C++20; without them this takes a tenth of a second.
_PROGRAM = "#include <vector>\ntemplate <class T> concept Any = true;\nint main() { return 0; }\n"


def compiler_identity() -> str:
    """Return the C++ compiler's command and version, empty if there is none."""
    command = compiler_command()
    if not command:
        return ""
    try:
        run = subprocess.run(  # noqa: S603 - the compiler that torch is going to call
            [*command, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return " ".join(command)
    return " ".join([*command, *run.stdout.splitlines()[:1]])


def require_compiler() -> str:
    """Return `compiler_identity`, found and tried without importing torch's compiler stack.

    Raises:
        CompileError: there is no C++ compiler, or it does not compile C++20.
    """
    found = compiler_identity()
    if not found:
        raise CompileError(
            "compiling needs a C++ compiler, and there is none: install g++, or name one in the "
            "environment variable CXX"
        )
    require_modern_compiler(found)
    return found


def require_modern_compiler(identity: str) -> None:
    """Check that the C++ compiler compiles C++20 at all.

    Args:
        identity: the compiler's name and version, for the message.

    Raises:
        CompileError: it does not.
    """
    if sys.platform == "win32":  # cl takes other options
        return
    command = [*compiler_command(), "-std=c++20", "-x", "c++", "-fsyntax-only", "-"]
    try:
        run = subprocess.run(  # noqa: S603 - the compiler that torch is going to call
            command, input=_PROGRAM, capture_output=True, text=True, timeout=60, check=False
        )
        reason = "" if run.returncode == 0 else (run.stderr.strip() or f"exit {run.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        raise CompileError(
            f"the C++ compiler '{identity}' does not compile C++20 ({reason.splitlines()[0]}): "
            "install a newer g++, or name one in the environment variable CXX"
        )
