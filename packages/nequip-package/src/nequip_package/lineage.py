"""Where a package comes from: the steps of ``model/lineage.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nequip_core.archive.reader import PackageReader
from nequip_package._version import __version__
from nequip_package.absolute_paths import without_absolute_paths

__all__ = ["PACKAGER", "lineage_step", "steps_from"]

PACKAGER = f"nequip-package {__version__}"


def lineage_step(
    relation: str, digest: str, form: int | None, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the step that leads from a parent to the package being written.

    Args:
        relation: what was done, one of the words of ``docs/formats/package-v3.md``.
        digest: identity of the parent package, or SHA-256 of another file, in hexadecimal.
        form: format of the parent package; None if it is no package.
        details: what else there is to say; absolute paths in it are shortened.
    """
    return {
        "relation": relation,
        "digest": digest,
        "format": form,
        "packager": PACKAGER,
        "details": without_absolute_paths(dict(details or {})),
    }


def steps_from(
    parent: PackageReader, relation: str, details: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the lineage of a package made from `parent`: the new step, then the parent's."""
    step = lineage_step(relation, parent.identity, parent.format_version, details)
    return [step, *earlier_steps(parent.lineage)]


def earlier_steps(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a parent's steps as they are carried on."""
    return [dict(step) for step in steps]
