"""A mistake in a config, where it is, and several of them as one message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nequip_core.errors import ConfigError

__all__ = ["Finding", "KeyPath", "Mistake", "as_error", "shown_path"]

KeyPath = tuple[str | int, ...]


class Finding(NamedTuple):
    """What is wrong at a path of the composed config.

    Attributes:
        path: keys and indices that lead to it.
        text: what was expected, what was found, and the nearest valid name.
        at_use: whether it is the key, or the use of a value here, that is wrong, so that a value
            that is written elsewhere and referred to here is not to blame.
    """

    path: KeyPath
    text: str
    at_use: bool = False


@dataclass(frozen=True)
class Mistake:
    """A mistake.

    Attributes:
        where: file and line, or the override on the command line; "" if that is not known.
        path: keys and indices that lead to it.
        text: what was expected, what was found, and the nearest valid name.
        order: what mistakes are sorted by.
    """

    where: str
    path: KeyPath
    text: str
    order: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        """Return the mistake in a line."""
        return ": ".join(part for part in (self.where, shown_path(self.path), self.text) if part)


def shown_path(path: KeyPath) -> str:
    """Return a key path as messages have it: ``data.transforms[1].r_max``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def as_error(mistakes: Sequence[Mistake]) -> ConfigError:
    """Return the error that tells all mistakes, each in a line of its own if there are several."""
    if len(mistakes) == 1:
        return ConfigError(str(mistakes[0]))
    lines = [f"the config has {len(mistakes)} mistakes:"]
    return ConfigError("\n".join([*lines, *(f"  {mistake}" for mistake in mistakes)]))
