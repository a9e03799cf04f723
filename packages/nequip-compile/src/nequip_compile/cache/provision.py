"""Compiled files, taken from the cache where they are in it: for the command and the service."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_compile.cache.entries import Entry, add_entry, drop, key_name
from nequip_compile.cache.failures import forget, raise_known, remember
from nequip_compile.cache.folder import UnusableCacheError, usable_folder
from nequip_compile.cache.key import cache_key
from nequip_compile.compilation import Compilation, compile_files
from nequip_compile.cxx import require_compiler
from nequip_compile.modes import TORCHSCRIPT
from nequip_compile.progress import say
from nequip_core.compiled_metadata import AOTINDUCTOR_SUFFIX, TORCHSCRIPT_SUFFIX
from nequip_core.errors import CompileError
from nequip_core.file_lock import locked
from nequip_core.files import atomic_path

if TYPE_CHECKING:
    from nequip_core.compile_targets import CompileTarget

__all__ = ["compiled_file", "provide"]

_PREFIX = "nequip-compile-"


def provide(
    compilation: Compilation,
    outputs: Mapping[Path, CompileTarget | None],
    use_cache: bool = True,
) -> dict[Path, bool]:
    """Write compiled files: copies of kept ones, the others compiled and kept. All or none.

    Args:
        compilation: which model and how.
        outputs: target by the path to write, see `compile_files`.
        use_cache: False compiles in any case, and keeps nothing.

    Returns:
        Output path -> whether it was compiled earlier.

    Raises:
        CompileError: it cannot be compiled, or its compiled form is wrong.
        NequIPError: the file, or what is asked of it, has to be corrected.
    """
    folder = _folder() if use_cache else None
    if folder is None:
        compile_files(compilation, outputs)
        return dict.fromkeys(outputs, False)
    keys = {path: cache_key(compilation, target) for path, target in outputs.items()}
    with _all_locked(folder, keys.values()):
        kept = {path: _kept(folder, keys[path]) for path in outputs}
        missing = {path: outputs[path] for path, file in kept.items() if file is None}
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as room:
            made, seconds = _made(compilation, missing, Path(room))
            _copy_all({path: kept[path] or made[path] for path in outputs})
            for path, file in made.items():
                _keep(folder, keys[path], file, seconds)
    return {path: kept[path] is not None for path in outputs}


def _copy_all(files: Mapping[Path, Path]) -> None:
    """Copy files to where they are wanted: they appear together, or not at all.

    Raises:
        CompileError: one cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for path, file in files.items():
            copy = stack.enter_context(atomic_path(path))
            try:
                shutil.copyfile(file, copy)
            except OSError as error:
                raise CompileError(
                    f"cannot write '{path}': {error.strerror}; is the disk full?"
                ) from error


def compiled_file(
    compilation: Compilation, target: CompileTarget, retry: bool = False
) -> tuple[Path, bool]:
    """Return the kept file of one compilation and whether it was there; compiled now if not.

    Where nothing can be kept the file lives as long as the process.

    Args:
        compilation: which model and how.
        target: input and output fields.
        retry: compile although it has failed a short time ago.

    Raises:
        CompileError: it cannot be compiled, or has failed a short time ago.
        NequIPError: the file, or what is asked of it, has to be corrected.
    """
    folder = _folder()
    if folder is None:
        require_compiler()
        return _made_for_process(compilation, target)[0], False
    key = cache_key(compilation, target)
    name = key_name(key)
    found = _kept(folder, key)  # without the lock: what is there does not wait for a compiler
    if found is not None:
        return found, True
    compiler = require_compiler()
    with _all_locked(folder, [key]):
        found = _kept(folder, key)
        if found is not None:
            return found, True
        if not retry:
            raise_known(folder, name, compiler)
        try:
            made, seconds = _made_for_process(compilation, target)
        except CompileError as error:
            remember(folder, name, compiler, error)
            raise
        return _keep(folder, key, made, seconds) or made, False


def _folder() -> Path | None:
    """Return the folder of the cache; None, with a line that says why, if it cannot be used."""
    try:
        return usable_folder()
    except UnusableCacheError as error:
        say(f"compiled models are not kept: {error}")
        return None


@contextlib.contextmanager
def _all_locked(folder: Path, keys: Any) -> Iterator[None]:
    """Hold the locks of several entries; in one order, so that no two wait for each other."""
    with contextlib.ExitStack() as stack:
        for name in sorted({key_name(key) for key in keys}):
            stack.enter_context(locked(folder / f"{name}.lock", _say_waiting))
        yield


def _say_waiting() -> None:
    say("another process compiles the same; waiting for it ...")


def _kept(folder: Path, key: Mapping[str, Any]) -> Path | None:
    """Return the kept file of a key, None if there is none; a damaged one is dropped."""
    entry = Entry(folder / key_name(key))
    if not entry.path.exists():
        return None
    try:
        file = entry.checked_file()
    except (OSError, ValueError) as error:
        say(f"a kept compiled model is not used and dropped: {error} ('{entry.path}')")
        with contextlib.suppress(OSError):
            drop(entry)
        return None
    entry.mark_used()
    return file


def _made(
    compilation: Compilation, wanted: Mapping[Path, CompileTarget | None], room: Path
) -> tuple[dict[Path, Path], float]:
    """Return what was compiled, in a folder, by the path where it is wanted; seconds for each."""
    if not wanted:
        return {}, 0.0
    suffix = TORCHSCRIPT_SUFFIX if compilation.mode == TORCHSCRIPT else AOTINDUCTOR_SUFFIX
    made = {path: room / str(number) / f"model{suffix}" for number, path in enumerate(wanted)}
    start = time.perf_counter()
    compile_files(compilation, {made[path]: target for path, target in wanted.items()})
    return made, (time.perf_counter() - start) / len(wanted)


def _made_for_process(compilation: Compilation, target: CompileTarget) -> tuple[Path, float]:
    """Return a file compiled now, in a folder that lives as long as the process, and seconds."""
    room = Path(tempfile.mkdtemp(prefix=_PREFIX))
    atexit.register(functools.partial(shutil.rmtree, room, ignore_errors=True))
    made, seconds = _made(compilation, {room: target}, room)
    return made[room], seconds


def _keep(folder: Path, key: Mapping[str, Any], file: Path, seconds: float) -> Path | None:
    """Return where a file is kept now; None, with a line that says why, if it cannot be."""
    try:
        kept = add_entry(folder, key, file, seconds)
    except OSError as error:
        say(f"the compiled model is not kept: {error}")
        return None
    forget(folder, key_name(key))
    return kept
