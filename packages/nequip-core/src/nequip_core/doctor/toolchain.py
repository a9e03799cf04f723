"""The C++ compiler and OpenMP, by compiling and running a small program."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from nequip_core.doctor.findings import ABSENT, BROKEN, OK, SKIPPED, WARNING, Finding
from nequip_core.doctor.isolation import Outcome

__all__ = ["compiler_command", "look_at_aotinductor", "look_at_compiler"]

_SECONDS = 60.0
_PROGRAM = """
#include <cstdio>
#include <numeric>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
int main() {
  std::vector<double> x(100, 0.5);
  double sum = 0.0;
#ifdef _OPENMP
#pragma omp parallel for reduction(+ : sum)
#endif
  for (int i = 0; i < 100; ++i) sum += x[i];
  std::printf("%.1f\\n", sum);
  return sum == 50.0 ? 0 : 1;
}
"""


def compiler_command() -> list[str]:
    """Return the words of the C++ compiler that AOTInductor would call, empty if there is none."""
    given = os.environ.get("CXX", "")
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    words = shlex.split(given) if given else [default]
    found = shutil.which(words[0]) if words else None
    return [found, *words[1:]] if found else []


def look_at_compiler(quick: bool) -> list[Finding]:
    """Return the C++ compiler with its version, and whether it makes programs that use OpenMP.

    Args:
        quick: compile nothing.
    """
    command = compiler_command()
    if not command:
        given = os.environ.get("CXX", "")
        text = f"the variable CXX names '{given}', which is not there" if given else "not found"
        state = BROKEN if given else ABSENT
        return [Finding("C++ compiler", state, text, _how_to_install())]
    version = _run([*command, "--version"])
    first = version[1].splitlines()[0] if version[1] else " ".join(command)
    if quick or sys.platform == "win32":
        return [
            Finding("C++ compiler", SKIPPED if quick else OK, first),
            Finding("OpenMP", SKIPPED, "not tried"),
        ]
    code, text = _compiled_and_run([*command, "-std=c++17", "-O1"])
    if code:
        advice = f"install it completely; {_how_to_install()}"
        return [Finding("C++ compiler", BROKEN, f"{first}; a small program fails: {text}", advice)]
    findings = [Finding("C++ compiler", OK, f"{first}; compiles and runs a small program")]
    code, text = _compiled_and_run([*command, "-std=c++17", "-O1", "-fopenmp"])
    if code:
        advice = "compiled models may use one thread only; install libgomp or libomp"
        findings.append(Finding("OpenMP", WARNING, f"-fopenmp fails: {text}", advice))
    else:
        findings.append(Finding("OpenMP", OK, "-fopenmp compiles and runs"))
    return findings


def look_at_aotinductor(outcome: Outcome | None, compiler: bool) -> Finding:
    """Return whether a compiled model was made, loaded and run.

    Args:
        outcome: of the probe, None if it was not tried.
        compiler: whether there is a C++ compiler.
    """
    name = "AOTInductor"
    if outcome is None:
        return Finding(name, SKIPPED, "not tried" if compiler else "needs a C++ compiler")
    if not outcome.error:
        return Finding(name, OK, "compiles, loads and runs a small model, with torch's numbers")
    advice = "models run eagerly nevertheless; see the lines on the compiler and on torch"
    return Finding(name, BROKEN, f"{outcome.error_type}: {outcome.error}", advice)


def _compiled_and_run(command: list[str]) -> tuple[int, str]:
    """Return the exit code, and in words what failed."""
    with tempfile.TemporaryDirectory(prefix="nequip-doctor-") as folder:
        source, program = Path(folder) / "program.cpp", Path(folder) / "program"
        source.write_text(_PROGRAM, encoding="ascii")
        code, text = _run([*command, str(source), "-o", str(program)])
        if not code:
            code, text = _run([str(program)])
            text = f"it ends with {code} {text}"
        lines = text.replace(f"{folder}/", "").splitlines()
        chosen = [line for line in lines if "error" in line.lower()] or lines or [f"exit {code}"]
        return code, chosen[0][:300]


def _run(command: list[str]) -> tuple[int, str]:
    try:
        found = subprocess.run(  # noqa: S603 - the user's own compiler
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_SECONDS,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {_SECONDS:.0f} s"
    except OSError as error:
        return 1, str(error)
    return found.returncode, (found.stdout + found.stderr).strip()


def _how_to_install() -> str:
    if sys.platform == "darwin":
        return "xcode-select --install"
    if sys.platform == "win32":
        return "install the C++ build tools of Visual Studio"
    return "install g++ (Debian: apt install g++; conda: conda install gxx)"
