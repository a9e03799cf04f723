"""What stands in for a class of an engine that is not installed, so that modules import anyway."""

from __future__ import annotations

from typing import Any

from nequip_core.errors import MissingDependencyError

__all__ = ["absent"]


def absent(engine: str, extra: str, error: ImportError) -> Any:
    """Return a base class whose subclasses say, when one is made, what to install.

    Args:
        engine: what is missing.
        extra: of nequip-integrations, that brings it.
        error: why it does not import.
    """
    message = f"{engine} does not import ({error}): pip install 'nequip-integrations[{extra}]'"

    class Absent:
        """Stands in for a class of the engine."""

        def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
            raise MissingDependencyError(message)

    return Absent
