"""The C++ compiler of this machine: which it is, and a library from source."""

from __future__ import annotations

import functools
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nequip_core.doctor.toolchain import compiler_command
from nequip_core.fingerprint import processor_features

__all__ = [
    "BuildError",
    "build_archive",
    "build_library",
    "build_object",
    "command_of_compiler",
    "compiler_identity",
    "flags",
    "machine",
]

_SECONDS = 900.0
# No -ffast-math: a library linked with it changes how the whole process rounds small numbers.
_FLAGS = (
    "-std=c++17",
    "-O2",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fvisibility=hidden",
    "-fPIC",
)


class BuildError(Exception):
    """A library could not be built; the text says why. Not an error for the user by itself."""


@functools.cache
def compiler_identity(command: tuple[str, ...]) -> str:
    """Return the first line of what the compiler says of its version.

    Raises:
        BuildError: it does not answer.
    """
    code, text = _run([*command, "--version"], 30.0)
    if code or not text:
        raise BuildError(f"'{shlex.join(command)} --version' fails: {_first(text)}")
    return text.splitlines()[0]


def command_of_compiler() -> tuple[str, ...]:
    """Return the words of the C++ compiler.

    Raises:
        BuildError: there is none.
    """
    found = compiler_command()
    if not found:
        raise BuildError(
            "there is no C++ compiler; install g++, or name one in the environment variable CXX"
        )
    return tuple(found)


def machine() -> dict[str, object]:
    """Return what binds native code to a machine."""
    return {
        "platform": sys.platform,
        "machine": platform.machine(),
        "processor": list(processor_features()),
    }


def flags() -> tuple[str, ...]:
    """Return the options of the compiler, except those for threads."""
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    return (*_FLAGS, native)


def build_library(command: Sequence[str], source: Path, library: Path) -> None:
    """Compile one source file to a shared library, with OpenMP where the compiler has it.

    Args:
        command: the words of the compiler.
        source: C++ file.
        library: where the library shall be.

    Raises:
        BuildError: the compiler fails.
    """
    words = [*command, *flags(), "-shared", str(source), "-o", str(library)]
    _compile(command, words)


def build_object(command: Sequence[str], source: Path, made: Path, include: Path) -> None:
    """Compile one source file to an object file, with OpenMP where the compiler has it.

    Args:
        command: the words of the compiler.
        source: C++ file.
        made: where the object file shall be.
        include: folder of headers.

    Raises:
        BuildError: the compiler fails.
    """
    # The later standard counts: torch's headers are in C++20.
    words = [*command, *flags(), "-std=c++20", "-I", str(include), "-c", str(source)]
    _compile(command, [*words, "-o", str(made)])


def build_archive(objects: Sequence[Path], archive: Path) -> None:
    """Put object files into a static library.

    Raises:
        BuildError: there is no ``ar``, or it fails.
    """
    code, text = _run(["ar", "rcs", str(archive), *map(str, objects)], _SECONDS)
    if code:
        raise BuildError(f"'ar', which belongs to the compiler, fails: {_first(text)}")


def _compile(command: Sequence[str], words: Sequence[str]) -> None:
    code, text = _run([*words, "-fopenmp"], _SECONDS)
    if code:
        # Without OpenMP, as with Apple's compiler, kernels run on one thread.
        code, text = _run(words, _SECONDS)
    if code:
        raise BuildError(f"'{shlex.join(command)}' fails: {_first(text)}")


def _run(words: Sequence[str], seconds: float) -> tuple[int, str]:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            words,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {seconds:.0f} s"
    except OSError as error:
        return 1, str(error)
    return done.returncode, (done.stdout + done.stderr).strip()


def _first(text: str) -> str:
    """Return the line of a compiler's output that says what is wrong."""
    lines = [line for line in text.splitlines() if line.strip()]
    chosen = [line for line in lines if "error" in line.lower()] or lines or ["no output"]
    return chosen[0].strip()[:300]
