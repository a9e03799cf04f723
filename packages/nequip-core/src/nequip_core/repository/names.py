"""Names of models in a repository: ``nequip.net:<group>/<model>:<version>``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from nequip_core.errors import ConfigError

__all__ = ["SCHEME", "ModelName", "is_reference", "parse_name", "parse_reference"]

SCHEME = "nequip.net:"
"""What a reference to a model in a repository begins with."""

_LONGEST = 128
_PART = re.compile(r"[a-zA-Z0-9-]+")
_VERSION = re.compile(r"[a-zA-Z0-9.-]+")


@dataclass(frozen=True, order=True)
class ModelName:
    """The name of one version of a model; its parts hold letters, digits and hyphens only.

    Attributes:
        group: who publishes it.
        model: what it is called.
        version: which one; may hold dots.
    """

    group: str
    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.group}/{self.model}:{self.version}"

    @property
    def reference(self) -> str:
        """The name as it stands in place of a file."""
        return f"{SCHEME}{self}"

    @property
    def key(self) -> str:
        """A file name for it, which also differs where file systems ignore case."""
        return hashlib.sha256(str(self).encode("ascii")).hexdigest()


def is_reference(source: object) -> bool:
    """Return whether a text names a model in a repository, well or badly spelled, and no file."""
    return isinstance(source, str) and source.startswith(SCHEME)


def parse_reference(reference: str) -> ModelName:
    """Return the name in ``nequip.net:<group>/<model>:<version>``.

    Raises:
        ConfigError: the text is no such reference.
    """
    if not is_reference(reference):
        raise ConfigError(
            f"a model of a repository is named {SCHEME}<group>/<model>:<version>, "
            f"got '{reference[:200]}'"
        )
    return parse_name(reference.removeprefix(SCHEME))


def parse_name(text: str) -> ModelName:
    """Return the name in ``<group>/<model>:<version>``.

    Raises:
        ConfigError: the text is no such name.
    """
    group, _, rest = text.partition("/")
    model, _, version = rest.partition(":")
    holds = (
        all(len(part) <= _LONGEST for part in (group, model, version))
        and _PART.fullmatch(group)
        and _PART.fullmatch(model)
        and _VERSION.fullmatch(version)
        and version.strip(".")
        and not version.startswith(".")
    )
    if not holds:
        raise ConfigError(
            f"'{text[:200]}' names no model: {SCHEME}<group>/<model>:<version> is needed, with "
            "letters, digits and hyphens, and dots in the version"
        )
    return ModelName(group, model, version)
