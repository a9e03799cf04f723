"""Files that appear whole or not at all, and checks on the names a user gave."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from nequip_core.errors import FileFormatError, MissingFileError

__all__ = ["atomic_path", "require_file", "require_output_suffix", "require_suffix"]


@contextlib.contextmanager
def atomic_path(final: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path with the file name of `final`; rename it to `final` on success.

    The temporary file lives in a hidden folder beside `final`, so the rename stays on one file
    system and a writer that derives names from the file name sees the final one. On any
    exception, an interrupt at any moment included, nothing is left behind and an existing `final`
    is untouched. Further temporary files may be put beside the yielded path.

    Args:
        final: where the file shall appear; its folder is created if needed.

    Raises:
        MissingFileError: its folder cannot be created or written to.
    """
    target = Path(final)
    folder = target.parent / f".{target.name}.{secrets.token_hex(6)}"
    # Known to the end of the process before it exists: an interrupt may come between any two steps,
    # those of the removal below included.
    remove = functools.partial(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(remove)
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise _unwritable(target, error.strerror or str(error)) from error
        yield folder / target.name
        (folder / target.name).replace(target)
    finally:
        remove()
        atexit.unregister(remove)


def require_file(path: str | os.PathLike[str], what: str) -> Path:
    """Return `path` as a Path if it is an existing file.

    Args:
        path: a path given by the user.
        what: what the file should be, for the message, e.g. ``"package"``.

    Raises:
        MissingFileError: nothing is at `path`, or a folder is.
    """
    found = Path(path)
    if found.is_dir():
        raise MissingFileError(f"{what} expected at '{found}', but this is a folder")
    if not found.exists():
        raise MissingFileError(f"no {what} at '{found}': the file does not exist")
    return found


def require_suffix(
    path: str | os.PathLike[str], suffixes: str | tuple[str, ...], what: str
) -> Path:
    """Return `path` as a Path if its name ends in one of `suffixes`.

    Raises:
        FileFormatError: the name ends otherwise.
    """
    found = Path(path)
    wanted = (suffixes,) if isinstance(suffixes, str) else suffixes
    if not found.name.endswith(wanted) or found.name in wanted:
        raise FileFormatError(
            f"the name of a {what} must end in {' or '.join(wanted)}, got '{path}'"
        )
    return found


def require_output_suffix(path: str | os.PathLike[str], suffix: str, what: str) -> Path:
    """Return the output `path` if its name ends in `suffix` and it is not a folder.

    Raises:
        FileFormatError: the name ends otherwise, or a folder is in the way.
        MissingFileError: its folder can be neither written to nor created.
    """
    try:
        found = require_suffix(path, suffix, what)
    except FileFormatError as error:
        stem = Path(path).name.partition(".")[0] or "model"
        raise FileFormatError(f"{error}; write for example '{stem}{suffix}'") from None
    if found.is_dir():
        raise FileFormatError(f"cannot write the {what} '{found}': a folder is in its place")
    # Said before the work that leads to the file, which may take minutes.
    parents = found.absolute().parents
    nearest = next(one for one in parents if os.path.lexists(one))
    if not nearest.is_dir():
        raise _unwritable(found, f"'{nearest}' is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _unwritable(found, f"the folder '{nearest}' is read-only for you")
    return found


def _unwritable(path: Path, reason: str) -> MissingFileError:
    return MissingFileError(f"cannot write '{path}': {reason}; name another place")
