"""Errors that tell a user what went wrong, where, and what to do next.

Every class inherits `NequIPError`, by which commands tell a user's mistake from a bug, and the
standard-library class a caller would expect. Code that can travel inside a package raises
standard-library errors only and never imports this module.
"""

from __future__ import annotations

__all__ = [
    "CompileError",
    "ConfigError",
    "DataError",
    "DownloadError",
    "FileFormatError",
    "MissingDependencyError",
    "MissingFileError",
    "ModelError",
    "NequIPError",
    "PackagingError",
    "PluginError",
    "TrustError",
    "UnknownSpeciesError",
    "closest",
]


class NequIPError(Exception):
    """Base of every error that this project raises for a user's mistake or environment."""


class ConfigError(NequIPError, ValueError):
    """A config, or an argument taken from one, is wrong."""


class DataError(NequIPError, ValueError):
    """A frame, a batch or a data file does not hold what is needed."""


class UnknownSpeciesError(DataError):
    """A chemical species or atom type is not one of the model's."""


class MissingFileError(NequIPError, FileNotFoundError):
    """A file that was named does not exist."""


class FileFormatError(NequIPError, ValueError):
    """A file exists but is not what its name or the command promised."""


class PackagingError(NequIPError, RuntimeError):
    """A model could not be archived."""


class CompileError(NequIPError, RuntimeError):
    """A model could not be compiled, or its compiled form disagrees with the eager one."""


class ModelError(NequIPError, RuntimeError):
    """A model cannot compute what it was given, for example for want of memory."""


class PluginError(NequIPError, ImportError):
    """An entry point is unknown, ambiguous, or fails to import."""


class DownloadError(NequIPError, ConnectionError):
    """A model could not be fetched from a repository, or what came is not what was promised."""


class TrustError(NequIPError, RuntimeError):
    """Code of a file may not run without the user's consent."""


class MissingDependencyError(NequIPError, ImportError):
    """An optional distribution is needed and not installed."""


def closest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``; did you mean 'x'?`` for the known name nearest to `name`, or an empty string."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
